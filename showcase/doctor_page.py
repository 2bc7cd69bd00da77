"""Writes the tables of docs/doctor.md: every kind of file, what opens it, and what cards do with it.

python -m showcase.doctor_page

The files are made as in the tests, and the tables are what ``hswq doctor`` says of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hswq_core import diagnose
from hswq_core.doctor import Diagnosis
from hswq_core.doctor.actions import FAST
from hswq_core.doctor.openings import NEW, OLD
from hswq_core.doctor.openings.opening import HSWQ_LOADER
from tests.core.doctor_cases import CASES, Make
from tests.core.test_doctor_gguf import written

PAGE = Path(__file__).resolve().parents[1] / "docs" / "doctor.md"
CARDS = ("RTX 3060", "RTX 4070", "RTX 5080")
_BEGIN, _END = "<!-- {} begins -->", "<!-- {} ends -->"
_SHORT = {
    "computes in 8 bits": "8 bits",
    "computes in 4 bits": "4 bits",
    "expands in each call": "each call",
    "expands when loaded": "16 bits",
}
_MAKERS: dict[str, Make] = {
    **{name: case.make for name, case in CASES.items()},
    **{f"GGUF {kind}": lambda folder, kind=kind: written(folder, kind) for kind in ("Q8_0", "Q5_1", "Q4_0")},
}


def tables(folder: Path) -> dict[str, str]:
    """The tables by name, of files that are made in a folder."""
    found: dict[str, list[Diagnosis]] = {}
    for number, (name, make) in enumerate(_MAKERS.items()):
        place = folder / str(number)
        place.mkdir()
        path = make(place)
        found[name] = [diagnose(path, card=card) for card in CARDS]
    return {
        "formats": _table(
            ("file", "format", "scales", OLD, NEW, HSWQ_LOADER, "others"),
            (_opened(name, each[0]) for name, each in found.items()),
        ),
        "cards": _table(("file", "loader", *CARDS), (row for name, each in found.items() for row in _done(name, each))),
    }


def page(text: str, parts: dict[str, str]) -> str:
    """The page with its tables replaced."""
    for name, table in parts.items():
        begin, end = _BEGIN.format(name), _END.format(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def _opened(name: str, found: Diagnosis) -> Iterator[str]:
    group = next((each.group for each in found.groups), None)
    yield from (name, f"`{group.kind.name}`" if group else "-", group.scales if group else "-")
    outcomes = {opening.loader: opening.outcome for opening in found.openings}
    yield from (outcomes.pop(loader) for loader in (OLD, NEW, HSWQ_LOADER))
    yield ", ".join(outcomes) or "-"


def _done(name: str, found: list[Diagnosis]) -> Iterator[list[str]]:
    """A row for each loader that opens the file: what each card does with its Linear layers, and with kept ones."""
    for loader in [*(opening.loader for opening in found[0].openings if opening.opens), FAST]:
        cells = [_on(diagnosis, loader) for diagnosis in found]
        if any(cells):
            yield [name, loader, *cells]


def _on(found: Diagnosis, loader: str) -> str:
    done = [a.does for each in found.groups if not each.group.convolutions for a in each.actions if a.loader == loader]
    lost = any(a.loader == loader and a.does == "casts kept layers to FP8" for a in found.kept_actions)
    return (_SHORT.get(done[0], done[0]) if done else "") + (", kept layers cast to FP8" if lost else "")


def _table(head: tuple[str, ...], rows: Iterator[Iterator[str] | list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        parts = tables(Path(folder))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main()
