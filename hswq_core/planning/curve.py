"""File size over keep ratio, for a chart: what every ratio would keep and how large the file would be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..calibration.statistics import Statistics
from ..files.checkpoint import CheckpointReader
from .plan import BELOW_THE_CUT, cost_of_keeping, make_plan
from .selection import ranked


@dataclass(frozen=True)
class SizeCurve:
    """The layers that a keep ratio decides on, with the most damage first, and what keeping them costs.

    Attributes:
        damage: of each layer, by the rule that ranks them.
        sizes: bytes of the file when the first 0, 1, 2, ... layers are kept; exact at both ends, and but for some
            bytes of header in between.
        always_kept: layers that are kept whatever the ratio: by pattern, or because the format has no place for them.
        source_bytes: the size of the source.
    """

    mode: str
    selection: str
    layers: tuple[str, ...]
    damage: tuple[float, ...]
    sizes: tuple[int, ...]
    always_kept: int
    source_bytes: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def size_curve(
    source: CheckpointReader,
    statistics: Statistics,
    *,
    mode: str,
    selection: str,
    force_keep: Sequence[str] = (),
    force_quantize: Sequence[str] = (),
) -> SizeCurve:
    """Errors: as for ``make_plan``."""
    plan, whole = (
        make_plan(
            source, statistics, mode=mode, keep_ratio=ratio, selection=selection,
            force_keep=force_keep, force_quantize=force_quantize,
        )
        for ratio in (0.0, 1.0)
    )  # fmt: skip
    open_layers = {e.layer: e for e in plan.layers if e.reason == BELOW_THE_CUT and e.damage is not None}
    damage = {name: layer.damage or 0.0 for name, layer in open_layers.items()}
    order = ranked(damage)
    costs = (cost_of_keeping(name, open_layers[name].info, plan.format) for name in order)
    sizes = list(itertools.accumulate(costs, initial=plan.nbytes))
    # A cost is the most that keeping can add. What all of them are too much is taken off evenly.
    excess = (sizes[-1] - whole.nbytes) / max(len(order), 1)
    return SizeCurve(
        mode=mode,
        selection=selection,
        layers=tuple(order),
        damage=tuple(damage[name] for name in order),
        sizes=tuple(round(size - excess * count) for count, size in enumerate(sizes)),
        always_kept=len(plan.kept),
        source_bytes=plan.source_bytes,
    )
