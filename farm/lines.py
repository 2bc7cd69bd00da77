"""In which line of a TOML text a key stands, for messages: the standard library's reader does not tell."""

from __future__ import annotations

import re

Place = tuple[int | str, ...]
"""Keys and numbers in lists, from the top, as pydantic gives them: ("outputs", 1, "mode")."""
Mistake = tuple[Place, str]
"""Where, and what is wrong there."""
_HEADER = re.compile(r"^\s*(\[\[?)\s*([A-Za-z0-9_.-]+)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")


class Lines:
    """Keys are found where recipes have them: at the top, in tables, and in arrays of tables."""

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, int, str], int] = {}
        table, counts = "", dict[str, int]()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = header[2]
                counts[table] = counts.get(table, -1) + (header[1] == "[[" or table not in counts)
                self._found.setdefault((table, counts[table], ""), number)
            elif key := _KEY.match(line):
                self._found.setdefault((table, counts.get(table, 0), key[1]), number)

    def of(self, place: Place) -> int:
        """The line of a key, or of its table, from 1. A table may be written as a key of the top."""
        first, *rest = place
        index = next((each for each in rest if isinstance(each, int)), 0)
        key = next((each for each in rest if isinstance(each, str)), "")
        places = ((str(first), index, key), (str(first), index, ""), ("", 0, str(first)))
        return next((self._found[each] for each in places if each in self._found), 1)
