"""Which layers are kept: the most sensitive ones, by count or by bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from ..errors import PlanError

_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{0,18})?)\s*(%|[kmgt]i?b?|b?)\s*", re.IGNORECASE)
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_budget(text: str, source_bytes: int) -> int:
    """Bytes from "3.2GB", "800MiB", "57%" (of the source), or a plain number. Errors: PlanError for anything else."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise PlanError(
            f"{text!r} is not a size", remedy="Give a size as in 3.2GB or 800MiB, or a share of the source as in 57%"
        )
    number, unit = float(found[1]), found[2].lower().removesuffix("b")
    if unit == "%":
        return int(source_bytes * number / 100)
    return int(number * (_BINARY_UNITS[unit[0]] if unit.endswith("i") else _UNITS[unit]))


def cut_by_ratio(sensitivity: Mapping[str, float], keep_ratio: float) -> set[str]:
    """The ``keep_ratio`` of the layers with the largest sensitivity, rounded up: asking for protection gives some."""
    # The tolerance is for 0.1 * 30 and its like.
    count = math.ceil(keep_ratio * len(sensitivity) - 1e-9)
    return set(ranked(sensitivity)[:count])


def cut_by_bytes(
    sensitivity: Mapping[str, float], cost: Mapping[str, int], available: int, *, per_byte: bool
) -> set[str]:
    """The layers whose protection fits into ``available`` bytes and avoids the most error.

    Args:
        sensitivity: by layer.
        cost: by layer, the bytes that keeping it adds to the file.
        per_byte: whether sensitivities are errors that add up, so that the bytes go where they avoid most;
            otherwise they only rank, and layers are kept from the top for as long as they fit.
    """
    worth = {name: sensitivity[name] / max(cost[name], 1) for name in sensitivity} if per_byte else sensitivity
    kept: set[str] = set()
    for name in ranked(worth):
        if cost[name] <= available:
            available -= cost[name]
            kept.add(name)
    return kept


def ranked(sensitivity: Mapping[str, float]) -> Sequence[str]:
    """Names with the largest value first, equal ones in the order of their names."""
    return sorted(sensitivity, key=lambda name: (-sensitivity[name], name))
