"""File size over keep ratio, for a chart: what every ratio would keep and how large the file would be."""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import asdict, dataclass, replace

from ..files.checkpoint import CheckpointReader
from .layer import cost_of_keeping, layout_of
from .plan import QuantizationPlan
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


def size_curve(source: CheckpointReader, plan: QuantizationPlan) -> SizeCurve:
    """What other keep ratios would have given.

    Args:
        plan: of this source, with any keep ratio or budget.
    """
    damage = {layer.layer: layer.damage for layer in plan.layers if layer.damage is not None}
    none, every = (_keeping(source, plan, damage, keep=keep) for keep in (False, True))
    open_layers = {layer.layer: layer for layer in plan.layers if layer.layer in damage}
    order = ranked(damage)
    costs = (cost_of_keeping(name, open_layers[name].info, plan.format) for name in order)
    sizes = list(itertools.accumulate(costs, initial=none.nbytes))
    # A cost is the most that keeping can add. What all of them are too much is taken off evenly.
    excess = (sizes[-1] - every.nbytes) / max(len(order), 1)
    return SizeCurve(
        mode=plan.format.name,
        selection=plan.selection,
        layers=tuple(order),
        damage=tuple(damage[name] for name in order),
        sizes=tuple(round(size - excess * count) for count, size in enumerate(sizes)),
        always_kept=len(none.kept),
        source_bytes=plan.source_bytes,
    )


def _keeping(
    source: CheckpointReader, plan: QuantizationPlan, layers: Container[str], *, keep: bool
) -> QuantizationPlan:
    """The same plan with all of these layers kept, or none."""
    changed = [replace(e, quantize=not keep) if e.layer in layers else e for e in plan.layers]
    layout = layout_of(source, plan.format, changed)
    return replace(plan, keep_ratio=float(keep), budget="", layers=tuple(changed), layout=layout)
