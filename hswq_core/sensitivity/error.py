"""Sensitivity by the error of the layer's own output."""

from __future__ import annotations

import torch

from ..calibration.rows import all_finite
from ..devices import wide
from ..grids import Grid, Scaling
from ..grids.channel_scales import importance_of_columns, search_channel_scales
from ..grids.histogram import histogram
from ..rounding.weight import find_scale, squared_error

_BLOCK = 1 << 22


def relative_output_error(
    weight: torch.Tensor, importance: torch.Tensor, second_moment: torch.Tensor, grid: Grid, *, scaling: Scaling
) -> float:
    """E|(W_q - W) x|^2 / E|W x|^2 under nearest rounding, as if input channels were uncorrelated.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW].
        importance, second_moment: E|x| and E[x^2] of each input channel, [C_in].
        scaling: what the format has a scale for.

    Errors: ValueError for a weight that holds NaN or infinity.
    """
    if scaling == "channel":
        return _by_channel(weight, importance, second_moment, grid)
    scale = find_scale(histogram(weight, importance), grid, scaled=scaling == "tensor")
    energy = histogram(weight, second_moment)
    signal = energy.mean_square * float(energy.weights.sum()) if energy.amax else 0.0
    return squared_error(energy, scale, grid) / signal if signal else 0.0


def _by_channel(weight: torch.Tensor, importance: torch.Tensor, second_moment: torch.Tensor, grid: Grid) -> float:
    if not all_finite(weight):
        raise ValueError("the weights hold NaN or infinity")
    scales, _ = search_channel_scales(weight, importance, grid)
    columns = importance_of_columns(weight, second_moment)
    error = signal = 0.0
    rows = max(1, _BLOCK // weight[0].numel())
    for block, scale in zip(weight.flatten(1).split(rows), scales.to(weight.device)[:, None].split(rows), strict=True):
        values = block.float()
        change = grid.nearest_values(values / scale).mul_(scale).sub_(values)
        error += float(wide(change.square_() @ columns).sum())
        signal += float(wide(values.square_() @ columns).sum())
    return error / signal if signal else 0.0
