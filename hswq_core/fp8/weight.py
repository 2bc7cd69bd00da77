"""One weight from its own type to FP8: the scale, the codes, and what was lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..calibration.statistics import LayerStatistics
from .channel_scale import search_channel_scales
from .grid import dequantize, quantize
from .histogram import Histogram, histogram
from .rounding import round_calibrated
from .scale import scale_of, search_amax


@dataclass(frozen=True)
class QuantizedWeight:
    """FP8 codes, scale (float32 [1], or [C_out]), and what was lost.

    ``error`` is the importance-weighted squared error of the weights, ``plain_error`` that of a plain cast.
    ``gain`` is the squared error of the layer's output over nearest rounding's, where rounding was calibrated.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    error: float
    plain_error: float
    gain: float | None = None


def quantize_weight(
    weight: torch.Tensor,
    measured: LayerStatistics | None,
    *,
    scaled: bool,
    per_channel: bool = False,
    rounding: str = "nearest",
) -> QuantizedWeight:
    """A weight with the best scale (V2), or with none (V1).

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], float of 16 bits or more.
        measured: the layer's statistics; ``None`` weighs all channels alike.
        scaled, per_channel: whether there is a scale, and one for each output channel.
        rounding: ``nearest``, or ``calibrated`` where there are rows of the layer's input to calibrate with.

    Errors: ValueError for a weight that holds NaN or infinity.
    """
    importance = measured.importance if measured else None
    distribution = histogram(weight, importance)
    per_channel = per_channel and scaled
    scale = find_scale(distribution, scaled=scaled and not per_channel)
    error = plain_error = squared_error(distribution, torch.ones(1))
    if per_channel:
        scale, error = search_channel_scales(weight, importance)
    elif scaled:
        error = squared_error(distribution, scale)
    if rounding == "calibrated" and measured is not None and can_calibrate(weight.shape, measured):
        assert measured.rows is not None
        rounded = round_calibrated(weight, scale, measured.rows, measured.second_moment)
        gain = rounded.error / rounded.nearest_error if rounded.nearest_error else 1.0
        return QuantizedWeight(rounded.codes, scale, error, plain_error, gain)
    return QuantizedWeight(quantize(weight, scale.view(-1, *[1] * (weight.dim() - 1))), scale, error, plain_error)


def can_calibrate(shape: Sequence[int], measured: LayerStatistics) -> bool:
    """Whether there are input rows of the width of a weight of this shape."""
    return measured.rows is not None and len(measured.rows) > 0 and measured.rows.shape[1] == math.prod(shape[1:])


def relative_output_error(weight: torch.Tensor, measured: LayerStatistics, *, scaled: bool) -> float:
    """E|(W_q - W) x|^2 / E|W x|^2, from E[x^2] of each input channel as if channels were uncorrelated.

    Errors: ValueError for a weight that holds NaN or infinity.
    """
    scale = find_scale(histogram(weight, measured.importance), scaled=scaled)
    energy = histogram(weight, measured.second_moment)
    signal = energy.mean_square * float(energy.weights.sum()) if energy.amax else 0.0
    return squared_error(energy, scale) / signal if signal else 0.0


def find_scale(distribution: Histogram, *, scaled: bool) -> torch.Tensor:
    """The stored scale, float32 [1]: searched for V2, 1 for V1. Errors: ValueError for NaN or infinity."""
    if not distribution.is_finite:
        raise ValueError("the weights hold NaN or infinity")
    # V1 needs no search: a clip below max|W| cannot lower the error (scale.py), above it nothing is clipped.
    return scale_of(search_amax(distribution, scaled=True).amax) if scaled else torch.ones(1)


def squared_error(distribution: Histogram, scale: torch.Tensor) -> float:
    """The weighted sum of squared rounding errors under a scale."""
    values = distribution.values
    return float((dequantize(quantize(values, scale), scale) - values).square().double() @ distribution.weights)
