"""Which layers are kept: the ones whose damage would be worst, as far as a rule can tell."""

from __future__ import annotations

import math
from collections.abc import Collection

from ..calibration.statistics import Statistics
from ..errors import PlanError

SELECTIONS = ("variance",)


def check_keep_ratio(keep_ratio: float) -> None:
    """Errors: PlanError when it is no number in [0, 1]."""
    if not (math.isfinite(keep_ratio) and 0.0 <= keep_ratio <= 1.0):
        raise PlanError(f"the keep ratio is {keep_ratio}", do="Give a number from 0 (keep none) to 1 (keep all)")


def select_kept(layers: Collection[str], statistics: Statistics | None, keep_ratio: float, selection: str) -> set[str]:
    """The layers to keep: the top ``keep_ratio`` of ``layers`` by the rule, at least that many.

    ``variance`` is the model card's rule: the layers with the largest variance of their output.

    Errors: PlanError for a bad ratio or rule, or when a ratio is asked for without statistics.
    """
    check_keep_ratio(keep_ratio)
    if selection not in SELECTIONS:
        raise PlanError(f"there is no selection {selection!r}", do=f"Choose one of: {', '.join(SELECTIONS)}")
    # Up, not to nearest: whoever asks for some protection gets some. The tolerance is for 0.1 * 30 and its like.
    count = math.ceil(keep_ratio * len(layers) - 1e-9)
    if count == 0:
        return set()
    if statistics is None:
        raise PlanError("choosing layers to keep needs statistics", do="Give statistics, or a keep ratio of 0")
    measured = statistics.layers
    return set(sorted(layers, key=lambda name: (-measured[name].sensitivity, name))[:count])
