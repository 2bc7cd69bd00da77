"""A scale for every output channel: each row of the weight is put where the grid suits it best.

A floating-point grid is self-similar under powers of two, so one octave above the largest magnitude holds every
scale worth trying except those that clip, from which a row with a range of its own gains nothing.
"""

from __future__ import annotations

import torch

from ..devices import wide
from .grid import Grid

_STEPS = 16  # in the octave; a quarter of them has half the gain, and twice as many next to none
_TOGETHER, _TOGETHER_ON_CPU = 1 << 22, 1 << 18
"""Weights that are searched together. On a CPU they stay in its cache, which halves the time."""


def search_channel_scales(
    weight: torch.Tensor, importance: torch.Tensor | None, grid: Grid
) -> tuple[torch.Tensor, float]:
    """The scale with the least importance-weighted squared error of each output channel, and the sum of these errors.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], finite.
        importance: [C_in]; ``None``, or all zeros, counts every weight once.

    Returns: float32 [C_out] on the CPU.
    """
    rows = weight.flatten(1)
    each = importance_of_columns(weight, importance)
    found, total = [], 0.0
    for block in searched_together(rows):
        values = block.float()
        unit = values.abs().amax(1, keepdim=True) / grid.largest
        # A channel of zeros has no range; below float32's normal one a scale would lose its digits.
        unit[unit < torch.finfo(torch.float32).tiny] = 1.0
        best, scales = torch.full_like(unit[:, 0], float("inf")), unit[:, 0].clone()
        for step in range(_STEPS if grid.is_self_similar else 1):
            scale = unit * 2.0 ** (step / _STEPS)
            error = grid.nearest_values(values / scale).mul_(scale).sub_(values).square_() @ each
            better = error < best
            best, scales = torch.where(better, error, best), torch.where(better, scale[:, 0], scales)
        found.append(scales)
        total += float(wide(best).sum())
    return torch.cat(found).cpu(), total


def searched_together(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rows [N, K] in parts of a size that is fast to search."""
    size = _TOGETHER_ON_CPU if rows.device.type == "cpu" else _TOGETHER
    return rows.split(max(1, size // rows.shape[1]))


def importance_of_columns(weight: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
    """The importance of each column of the flattened weight, float32 [K], on the weight's device.

    ``None``, or all zeros (a layer whose input was always zero), counts every column once.
    """
    each = torch.ones(weight.shape[1]) if importance is None or not importance.any() else importance
    return each.float().to(weight.device).repeat_interleave(weight[0].numel() // weight.shape[1])
