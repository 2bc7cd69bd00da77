"""The difference that rounding makes to a weight, to measure its effect on the model."""

from __future__ import annotations

import torch

from ..grids import Grid
from ..rounding.weight import QuantizedWeight, scale_like
from .gradient import Change


def rounding_change(rounded: QuantizedWeight, grid: Grid, *, is_nearest: bool) -> Change:
    """A function from a layer's weight to what rounding adds to it, in float32.

    Args:
        is_nearest: whether the codes are the nearest ones. They are then found again from the weight, since a large
            model's codes take as many bytes as it has weights; others are kept in main memory.
    """
    scale = rounded.scale
    codes = None if is_nearest else rounded.codes.cpu()

    def change(weight: torch.Tensor) -> torch.Tensor:
        nonlocal scale
        scale = scale.to(weight.device)  # and there it stays: sent each time, the host would wait for the device
        against = scale_like(weight, scale)
        found = grid.quantize(weight, against) if codes is None else codes.to(weight.device)
        return grid.dequantize(found, against).sub_(weight)

    return change
