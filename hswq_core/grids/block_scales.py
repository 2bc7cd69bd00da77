"""A scale for every 16 columns of every output channel, itself a number of FP8: what NVFP4 has.

Scales are numbers of E4M3 times one factor for the weight, which the format has in F32. Here that is a power of two:
codes have 2 significant bits and E4M3 has 4, so that all products are exact in FP16 and BF16. Readers that multiply in
the type they compute in, as ComfyUI does on a CPU, then get the very weight that was meant. It costs nothing, as E4M3
has a range of fifteen octaves, and the largest values of a weight's blocks are nearer to each other than that.
"""

from __future__ import annotations

import math

import torch

from .channel_scales import importance_of_columns, searched_together
from .e4m3 import E4M3
from .grid import Grid
from .group_scales import BLOCK, best_scales, in_groups

_STEPS = range(-5, 7)
"""Codes of E4M3 around the one that takes a block's largest value to the end of the grid: from 0.65 to 1.6 times it.

Above it is where the largest value is the last but one of the grid.
"""
_LEAST_CODE, _LARGEST_CODE = 1, 126
_LEAST_FACTOR = 2.0**-14
"""With it all products are multiples of FP16's smallest number. Below, FP16 holds no weight well."""
_ROOM = 256.0


def search_block_scales(
    weight: torch.Tensor, importance: torch.Tensor | None, grid: Grid
) -> tuple[torch.Tensor, float]:
    """The scale with the least importance-weighted squared error of each block, and the sum of these errors.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], finite.
        importance: [C_in]; ``None``, or all zeros, counts every weight once.

    Returns: float32 [C_out, blocks] on the CPU, which ``stored_scales`` takes apart.
    """
    rows = weight.flatten(1)
    each = in_groups(importance_of_columns(weight, importance)[None], BLOCK)[0]
    # The largest scale that is tried must not exceed the range.
    factor = _factor(2 * float(rows.abs().amax()) / grid.largest)
    found, total = [], 0.0
    for part in searched_together(rows):
        values = in_groups(part.float(), BLOCK)
        unit = values.abs().amax(-1, keepdim=True) / grid.largest
        points = E4M3.magnitudes().to(unit.device)  # by code
        middle = torch.searchsorted(points, E4M3.quantize(unit, factor).float())
        tried = (points[(middle + step).clamp_(_LEAST_CODE, _LARGEST_CODE)] * factor for step in _STEPS)
        scales, error = best_scales(values, each, tried, grid)
        scales[unit == 0] = factor
        found.append(scales[..., 0])
        total += error
    return torch.cat(found).cpu(), total


def stored_scales(scales: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The scales of blocks as numbers of E4M3, [C_out, blocks], and the factor."""
    factor = _factor(float(scales.max()))
    return E4M3.quantize(scales, factor), factor


def blocks_of(columns: int) -> int:
    """How many blocks so many columns have."""
    return -(-columns // BLOCK)


def _factor(largest: float) -> float:
    """The power of two that scales up to ``largest`` are numbers of E4M3 of; the same for less that has been chosen."""
    if not largest > 0:
        return 1.0
    least = max(2.0 ** math.ceil(math.log2(largest / E4M3.largest)), torch.finfo(torch.float32).tiny)
    return min(max(least, _LEAST_FACTOR), _ROOM * least)
