"""Sensitivity by the error of the layer's own output."""

from __future__ import annotations

import torch

from ..grids import Grid
from ..grids.histogram import histogram
from ..rounding.weight import find_scale, squared_error


def relative_output_error(
    weight: torch.Tensor, importance: torch.Tensor, second_moment: torch.Tensor, grid: Grid, *, scaled: bool
) -> float:
    """E|(W_q - W) x|^2 / E|W x|^2 under nearest rounding, as if input channels were uncorrelated.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW].
        importance, second_moment: E|x| and E[x^2] of each input channel, [C_in].
        scaled: whether the weight has a scale.

    Errors: ValueError for a weight that holds NaN or infinity.
    """
    scale = find_scale(histogram(weight, importance), grid, scaled=scaled)
    energy = histogram(weight, second_moment)
    signal = energy.mean_square * float(energy.weights.sum()) if energy.amax else 0.0
    return squared_error(energy, scale, grid) / signal if signal else 0.0
