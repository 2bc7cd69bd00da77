"""One weight from its own type to FP8: the scale, the codes, and what was lost."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .grid import dequantize, quantize
from .histogram import Histogram, histogram
from .scale import scale_of, search_amax


@dataclass(frozen=True)
class QuantizedWeight:
    """FP8 codes, scale (float32 [1]), and the importance-weighted squared error, here and of a plain cast."""

    codes: torch.Tensor
    scale: torch.Tensor
    error: float
    plain_error: float


def quantize_weight(weight: torch.Tensor, importance: torch.Tensor | None, *, scaled: bool) -> QuantizedWeight:
    """Nearest rounding with the best scale (V2), or with none (V1).

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], float of 16 bits or more.
        importance: [C_in], E|x| of each input channel; ``None`` weighs all alike.

    Errors: ValueError for a weight that holds NaN or infinity.
    """
    distribution = histogram(weight, importance)
    scale = find_scale(distribution, scaled=scaled)
    plain_error = squared_error(distribution, torch.ones(1))
    error = squared_error(distribution, scale) if scaled else plain_error
    return QuantizedWeight(quantize(weight, scale), scale, error, plain_error)


def relative_output_error(
    weight: torch.Tensor, importance: torch.Tensor, second_moment: torch.Tensor, *, scaled: bool
) -> float:
    """E|(W_q - W) x|^2 / E|W x|^2, from E[x^2] of each input channel as if channels were uncorrelated.

    Errors: ValueError for a weight that holds NaN or infinity.
    """
    scale = find_scale(histogram(weight, importance), scaled=scaled)
    energy = histogram(weight, second_moment)
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
