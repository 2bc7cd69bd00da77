"""A scale for every group of columns of every output channel: what grids of few values need.

Groups run along the flattened columns (C_in * kH * kW); the last one may be shorter. Scales are FP16. Integers gain by
clipping the largest values of a group, so some clippings are tried.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..devices import wide
from .channel_scales import importance_of_columns, searched_together
from .grid import Grid

GROUP, BLOCK = 64, 16
"""Columns of a group; of a block, which is what ``block_scales`` has scales for."""
_CLIPPINGS = 8
_LEAST_CLIPPING = 0.65
_SMALLEST, _LARGEST = 2.0**-24, 65504.0
"""What FP16 holds, subnormal numbers included."""


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
    each = in_groups(importance_of_columns(weight, importance)[None], GROUP)[0]
    found, total = [], 0.0
    for block in searched_together(rows):
        values = in_groups(block.float(), GROUP)
        unit = values.abs().amax(-1, keepdim=True) / grid.largest
        clippings = torch.linspace(1.0, _LEAST_CLIPPING, _CLIPPINGS).tolist()
        # As they are stored.
        tried = ((unit * clipping).clamp_(_SMALLEST, _LARGEST).half().float() for clipping in clippings)
        scales, error = best_scales(values, each, tried, grid)
        scales[unit == 0] = 1.0
        found.append(scales[..., 0].half())
        total += error
    return torch.cat(found).cpu(), total


def best_scales(
    values: torch.Tensor, importance: torch.Tensor, tried: Iterable[torch.Tensor], grid: Grid
) -> tuple[torch.Tensor, float]:
    """The scale of each group with the least weighted squared error, [N, groups, 1], and the sum of these errors.

    Args:
        values: [N, groups, columns of a group].
        importance: [groups, columns of a group].
        tried: scales, [N, groups, 1] each.
    """
    best = torch.full_like(values[..., :1], float("inf"))
    scales = torch.ones_like(best)
    for scale in tried:
        change = grid.nearest_values(values / scale).mul_(scale).sub_(values)
        error = (change.square_() * importance).sum(-1, keepdim=True)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, scale, scales)
    return scales, float(wide(best).sum())


def scales_of_columns(scales: torch.Tensor, columns: int) -> torch.Tensor:
    """The scale of every weight, float32 [C_out, columns], of scales [C_out, groups], or [C_out, blocks]."""
    size = GROUP if scales.shape[1] == groups_of(columns) else BLOCK
    return scales.float().repeat_interleave(size, dim=1)[:, :columns]


def groups_of(columns: int) -> int:
    """How many groups so many columns have."""
    return -(-columns // GROUP)


def in_groups(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Rows [N, K] as [N, groups, size], with zeros at the end of the last one."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % size)).unflatten(1, (-1, size))
