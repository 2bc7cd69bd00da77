"""One layer of a plan: its weight and what calibration measured of it become codes and a scale."""

from __future__ import annotations

from dataclasses import replace

import torch

from .calibration.rows import tensor_of
from .calibration.statistics import LayerStatistics
from .files.formats import Format
from .options import Rounding
from .rounding.rotation import best_group, rotated
from .rounding.weight import QuantizedWeight, quantize_weight


def quantize_layer(
    weight: torch.Tensor, measured: LayerStatistics | None, form: Format, rounding: Rounding
) -> QuantizedWeight:
    """Args:
        weight: [C_out, C_in], or [C_out, C_in / groups, ...] of a convolution, float of 16 bits or more.
        measured: the layer's statistics; ``None`` weighs all channels alike.
        rounding: ``calibrated`` applies where there are input rows to calibrate with.

    Errors: ValueError for a weight that holds NaN or infinity.
    """
    if measured is None:
        return quantize_weight(weight, grid=form.grid, scaling=form.scaling)
    rows = measured.rows if measured.has_rows_for(weight.shape) else None
    if form.rotation is not None and rows is not None and weight.dim() == 2:
        rows = tensor_of(rows)
        group = best_group(weight, rows)
        if group > 1:
            return _rotated(weight, rows, group, form, rounding)
    if rounding == "nearest":
        rows = None
    return quantize_weight(
        weight,
        grid=form.grid,
        scaling=form.scaling,
        importance=measured.of_columns(measured.importance, weight.shape),
        rows=None if rows is None else tensor_of(rows),
        second_moment=None if rows is None else measured.second_moment,
    )


def _rotated(weight: torch.Tensor, rows: torch.Tensor, group: int, form: Format, rounding: Rounding) -> QuantizedWeight:
    """Codes of the rotated weight. What is known of its inputs is what the rows, rotated, say."""
    inputs = rotated(rows.to(weight.device), group)
    found = quantize_weight(
        rotated(weight, group),
        grid=form.grid,
        scaling=form.scaling,
        importance=inputs.abs().mean(0).double().cpu(),
        rows=inputs if rounding == "calibrated" else None,
        second_moment=inputs.square().mean(0).double().cpu() if rounding == "calibrated" else None,
    )
    return replace(found, group=group)
