"""One layer of a plan: its weight and what calibration measured of it become codes and a scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .calibration.rows import all_finite, tensor_of
from .calibration.statistics import LayerStatistics
from .errors import CheckpointError
from .formats import Form
from .grids.histogram import Histogram, histogram
from .options import Rounding
from .rounding.rotation import NONE, best_group, rotated
from .rounding.weight import QuantizedWeight, quantize_weight


def quantize_layer(
    weight: torch.Tensor,
    measured: LayerStatistics | None,
    form: Form,
    rounding: Rounding,
    distribution: Histogram | None = None,
) -> QuantizedWeight:
    """A layer that cannot be rounded by its calibration is rounded to nearest, and says why (``fallback``).

    Args:
        weight: [C_out, C_in], or [C_out, C_in / groups, ...] of a convolution, float of 16 bits or more.
        measured: the layer's statistics; ``None`` weighs all channels alike.
        rounding: ``calibrated`` applies where there are input rows to calibrate with.
        distribution: what ``distribution_of`` says, for one that has several forms of the layer made.

    Errors: ValueError for a weight that holds NaN or infinity.
    """
    if measured is None:
        return quantize_weight(weight, grid=form.grid, scaling=form.scaling, distribution=distribution)
    importance = measured.of_columns(measured.importance, weight.shape)
    if not all_finite(importance):
        plain = quantize_weight(weight, grid=form.grid, scaling=form.scaling, distribution=distribution)
        return replace(plain, fallback="its statistics hold NaN or infinity")
    rows, fallback = None, ""
    if measured.has_rows_for(weight.shape) and (rounding == "calibrated" or form.rotation is not None):
        rows = tensor_of(measured.rows) if measured.rows is not None else None
        fallback = "" if rows is None else _why_unusable(rows, measured)
    if rows is not None and not fallback:
        try:
            return _by_rows(weight, measured, rows, form, rounding, distribution)
        except ArithmeticError as error:
            fallback = str(error)
    nearest = quantize_weight(
        weight, grid=form.grid, scaling=form.scaling, importance=importance, distribution=distribution
    )
    return replace(nearest, fallback=fallback)


def distribution_of(weight: torch.Tensor, measured: LayerStatistics) -> Histogram:
    """The histogram of a layer's weight, each element counted with its input channel's importance."""
    importance = measured.of_columns(measured.importance, weight.shape)
    return histogram(weight, importance if all_finite(importance) else None)


@dataclass(frozen=True)
class Rotated:
    """A Linear layer whose inputs are rotated in groups: weight [C_out, C_in], rows [R, C_in], float32; E|x| and E[x^2]
    of the rotated inputs, as far as the rows tell, float64 [C_in]."""

    group: int
    weight: torch.Tensor
    rows: torch.Tensor
    importance: torch.Tensor
    second_moment: torch.Tensor


def as_rotated(weight: torch.Tensor, measured: LayerStatistics, form: Form) -> Rotated | None:
    """The layer as it is rotated in a format; ``None`` where it is not, or cannot be."""
    if form.rotation is None or weight.dim() != 2 or not measured.has_rows_for(weight.shape) or measured.rows is None:
        return None
    rows = tensor_of(measured.rows)
    return None if _why_unusable(rows, measured) else _rotated(weight, rows)


def weight_problem(name: str, problem: Exception, where: Path | str) -> CheckpointError:
    """The error for a layer whose weight ``quantize_layer`` refused."""
    return CheckpointError(f"layer {name}: {problem}", where=where, remedy="Repair the checkpoint")


def _why_unusable(rows: torch.Tensor, measured: LayerStatistics) -> str:
    if not all_finite(rows):
        return "its sampled inputs hold NaN or infinity"
    if not all_finite(measured.second_moment):
        return "its statistics hold NaN or infinity"
    return ""


def _by_rows(
    weight: torch.Tensor,
    measured: LayerStatistics,
    rows: torch.Tensor,
    form: Form,
    rounding: Rounding,
    distribution: Histogram | None,
) -> QuantizedWeight:
    """With the layer's inputs rotated where that pays. Errors: ArithmeticError when it cannot be calibrated."""
    calibrated = rounding == "calibrated"
    turned = _rotated(weight, rows) if form.rotation is not None and weight.dim() == 2 else None
    if turned is not None:
        found = quantize_weight(
            turned.weight,
            grid=form.grid,
            scaling=form.scaling,
            importance=turned.importance,
            rows=turned.rows if calibrated else None,
            second_moment=turned.second_moment if calibrated else None,
        )
        return replace(found, group=turned.group)
    return quantize_weight(
        weight,
        grid=form.grid,
        scaling=form.scaling,
        importance=measured.of_columns(measured.importance, weight.shape),
        rows=rows if calibrated else None,
        second_moment=measured.second_moment if calibrated else None,
        distribution=distribution,
    )


def _rotated(weight: torch.Tensor, rows: torch.Tensor) -> Rotated | None:
    """The rotation that suits the layer best, or none. What is known of its inputs is what the rows, rotated, say."""
    group = best_group(weight, rows)
    if group == NONE:
        return None
    inputs = rotated(rows.to(weight.device), group)
    importance, second_moment = (x.mean(0).cpu().double() for x in (inputs.abs(), inputs.square()))
    return Rotated(group, rotated(weight, group), inputs, importance, second_moment)
