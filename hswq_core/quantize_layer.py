"""One layer of a plan: its weight and what calibration measured of it become codes and a scale."""

from __future__ import annotations

import torch

from .calibration.rows import tensor_of
from .calibration.statistics import LayerStatistics
from .files.formats import Format
from .options import Rounding
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
    calibrated = rounding == "calibrated" and measured.has_rows_for(weight.shape)
    return quantize_weight(
        weight,
        grid=form.grid,
        scaling=form.scaling,
        importance=measured.of_columns(measured.importance, weight.shape),
        rows=tensor_of(measured.rows) if calibrated and measured.rows is not None else None,
        second_moment=measured.second_moment if calibrated else None,
    )
