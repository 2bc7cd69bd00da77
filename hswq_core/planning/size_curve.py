"""File size over keep ratio, for a chart: what every ratio would keep and how large the file would be."""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import asdict, dataclass, replace

from ..files.source import TensorSource
from .layer import cost_of_keeping
from .plan import QuantizationPlan
from .selection import ranked


@dataclass(frozen=True)
class SizeCurve:
    """The layers that a keep ratio decides on, the most sensitive first, and what keeping them costs.

    Attributes:
        sensitivity: of each layer, by the rule that ranks them.
        sizes: bytes of the file when the first 0, 1, 2, ... layers are kept; exact at both ends, and but for some
            bytes of header in between.
        always_kept: layers that are kept whatever the ratio: by pattern, or because the format has no place for them.
        source_bytes: the size of the source.
        planned_bytes, planned_layers: the size of the file and the layers that are kept by the options as they are.
    """

    mode: str
    selection: str
    layers: tuple[str, ...]
    sensitivity: tuple[float, ...]
    sizes: tuple[int, ...]
    always_kept: int
    source_bytes: int
    planned_bytes: int
    planned_layers: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def sizes_by_keep_ratio(source: TensorSource, plan: QuantizationPlan) -> SizeCurve:
    """What other keep ratios would have given.

    Args:
        plan: of this source, with any keep ratio or budget.
    """
    sensitivity = {layer.layer: layer.sensitivity for layer in plan.layers if layer.sensitivity is not None}
    none, every = (_keeping(source, plan, sensitivity, keep=keep) for keep in (False, True))
    open_layers = {layer.layer: layer for layer in plan.layers if layer.layer in sensitivity}
    order = ranked(sensitivity)
    costs = (cost_of_keeping(name, open_layers[name].info, plan.form) for name in order)
    sizes = list(itertools.accumulate(costs, initial=none.nbytes))
    # Costs are upper bounds; spread the total excess evenly.
    excess = (sizes[-1] - every.nbytes) / max(len(order), 1)
    return SizeCurve(
        mode=plan.format.name,
        selection=plan.options.selection,
        layers=tuple(order),
        sensitivity=tuple(sensitivity[name] for name in order),
        sizes=tuple(round(size - excess * count) for count, size in enumerate(sizes)),
        always_kept=len(none.kept),
        source_bytes=plan.source.nbytes,
        planned_bytes=plan.nbytes,
        planned_layers=tuple(layer.layer for layer in plan.kept),
    )


def _keeping(source: TensorSource, plan: QuantizationPlan, layers: Container[str], *, keep: bool) -> QuantizationPlan:
    """The same plan with all of these layers kept, or none."""
    form = None if keep else plan.form
    changed = [replace(each, form=form) if each.layer in layers else each for each in plan.layers]
    options = replace(plan.options, keep_ratio=float(keep), budget="")
    return replace(plan.with_layers(source, changed), options=options)
