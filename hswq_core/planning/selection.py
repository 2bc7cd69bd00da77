"""Which layers are kept: the most sensitive ones, by count or by bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


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
