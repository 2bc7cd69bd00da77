"""A scale for every group of columns of every output channel: what grids of few values need.

Groups run along the flattened columns (C_in * kH * kW); the last one may be shorter. Scales are FP16. Integers gain by
clipping the largest values of a group, so some clippings are tried.
"""

from __future__ import annotations

import torch

from .channel_scales import importance_of_columns
from .grid import Grid

GROUP = 64
_CLIPPINGS = 8
_LEAST_CLIPPING = 0.65
_SMALLEST, _LARGEST = 2.0**-24, 65504.0
"""What FP16 holds, subnormal numbers included."""
_BLOCK = 1 << 22


def search_group_scales(
    weight: torch.Tensor, importance: torch.Tensor | None, grid: Grid
) -> tuple[torch.Tensor, float]:
    """The scale with the least importance-weighted squared error of each group, and the sum of these errors.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], finite.
        importance: [C_in]; ``None``, or all zeros, counts every weight once.

    Returns: float16 [C_out, groups] on the CPU.
    """
    rows = weight.flatten(1)
    each = _in_groups(importance_of_columns(weight, importance)[None])[0]
    found, total = [], 0.0
    for block in rows.split(max(1, _BLOCK // rows.shape[1])):
        values = _in_groups(block.float())
        unit = values.abs().amax(-1, keepdim=True) / grid.largest
        best, scales = torch.full_like(unit, float("inf")), torch.ones_like(unit)
        for clipping in torch.linspace(1.0, _LEAST_CLIPPING, _CLIPPINGS).tolist():
            scale = (unit * clipping).clamp_(_SMALLEST, _LARGEST).half().float()  # as it is stored
            change = grid.dequantize(grid.quantize(values, scale), scale).sub_(values)
            error = (change.square_() * each).sum(-1, keepdim=True)
            better = error < best
            best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
        scales[unit == 0] = 1.0
        found.append(scales[..., 0].half())
        total += float(best.double().sum())
    return torch.cat(found).cpu(), total


def scales_of_columns(scales: torch.Tensor, columns: int) -> torch.Tensor:
    """The scale of every weight, float32 [C_out, columns], of scales [C_out, groups]."""
    return scales.float().repeat_interleave(GROUP, dim=1)[:, :columns]


def groups_of(columns: int) -> int:
    """How many groups so many columns have."""
    return -(-columns // GROUP)


def _in_groups(rows: torch.Tensor) -> torch.Tensor:
    """Rows [N, K] as [N, groups, GROUP], with zeros at the end of the last one."""
    missing = groups_of(rows.shape[1]) * GROUP - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, missing)).unflatten(1, (-1, GROUP))
