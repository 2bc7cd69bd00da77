"""One [[outputs]] of a recipe: every key that is wrong, not the first alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hswq_core.errors import HSWQError, nearest_name
from hswq_core.options import QuantizeOptions

Mistakes = list[tuple[str, str]]
"""Keys, and what is wrong with each."""
_KEYS = {each.name for each in fields(QuantizeOptions)}
_MODE_OF = {"rotate": "comfy-int8"}
"""In which mode a key may have any of its values; v2 for the others."""


def read_output(table: Mapping[str, Any]) -> tuple[QuantizeOptions, Mistakes]:
    """The options, and every mistake; what is wrong has its default, so that the rest can be checked, too."""
    mistakes: Mistakes = [(key, unknown_key(key, _KEYS)) for key in table if key not in _KEYS]
    wrong_mode = _wrong(mode=table.get("mode", "v2"))
    if wrong_mode:
        mistakes.append(("mode", wrong_mode))
    for key in table.keys() & _KEYS - {"mode"}:
        said = _wrong(mode=_MODE_OF.get(key, "v2"), **{key: table[key]})
        if not said and not wrong_mode:  # a value that is none of this mode's
            said = _wrong(mode=table.get("mode", "v2"), **{key: table[key]})
        if said:
            mistakes.append((key, said))
    wrong = {key for key, _ in mistakes}
    try:
        return QuantizeOptions(**{key: value for key, value in table.items() if key not in wrong}), mistakes
    except HSWQError:  # what fits its mode alone, where that is wrong
        return QuantizeOptions(), mistakes


def rows_missing(outputs: Mapping[int, QuantizeOptions], rows: int) -> list[tuple[str, int, str, str]]:
    """What is asked for without the rows that it needs, as (table, number, key, what)."""
    asked = ((n, key, o) for n, o in outputs.items() for key in ("rounding", "rotate"))
    return [
        ("outputs", number, key, f"{key} = {getattr(options, key)!r} needs sampled rows, and rows_per_layer is 0")
        for number, key, options in asked
        if not rows and getattr(options, key) in ("calibrated", True)
    ]


def unknown_key(key: str, known: set[str]) -> str:
    guess = nearest_name(key, known)
    return f"{key!r} is no key" + (f"; did you mean {guess!r}?" if guess else "")


def _wrong(**options: Any) -> str:
    try:
        QuantizeOptions(**options)
    except HSWQError as error:
        return f"{error.what}. {error.remedy}"
    return ""
