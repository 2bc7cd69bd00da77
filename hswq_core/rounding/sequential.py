"""Sequential rounding with error feedback, up to 32 columns of a layer at a time."""

from __future__ import annotations

from itertools import product
from types import ModuleType

import torch

from ..backend import Operation, register
from ..grids import E2M1, E4M3, INT4, INT8, Grid
from . import sequential_cpu

COLUMNS = 32
"""How many at a time, at most: beyond them a matrix product brings up to date what is left."""


def round_rows(
    grid: Grid,
    target: torch.Tensor,
    coupling: torch.Tensor,
    values: torch.Tensor | None = None,
    unit: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round ``target`` to the grid, row by row; each row's change moves the rows after it.

    Args:
        target: float32 [N, C_out], N up to ``COLUMNS``; it may be overwritten.
        coupling: float32 [N, N]; row i > j of the target moves by coupling[j, i] times the change of row j.
        values: what the change of a row is counted from, [N, C_out]; the target itself if there are none.
        unit: what a step of the grid is, float32 [N, C_out]; one if there is none.

    Returns: the rounded rows in float32, and the change: values minus rounded.
    """
    kernel = ROUND_ROWS.kernel(target.device)
    if kernel is not None:
        return kernel.round_strips(grid, target, coupling, values, unit)
    if target.device.type == "cpu":
        return sequential_cpu.round_strips(grid, target, coupling, values, unit)
    return _by_torch(grid, target, coupling, values, unit)


def _by_torch(
    grid: Grid,
    target: torch.Tensor,
    coupling: torch.Tensor,
    values: torch.Tensor | None,
    unit: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    rounded, change = torch.empty_like(target), torch.empty_like(target)
    for j, wanted in enumerate(target):
        if unit is None:
            rounded[j].copy_(grid.nearest(rounded[j].copy_(wanted)))
        else:
            rounded[j].copy_(grid.dequantize(grid.nearest(wanted / unit[j]), unit[j]))
        torch.sub(wanted if values is None else values[j], rounded[j], out=change[j])
        target[j + 1 :].addr_(coupling[j, j + 1 :], change[j])
    return rounded, change


def _agrees(kernel: ModuleType, device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    agreements = []
    # A whole block of columns and the rest of a layer; rows of a larger matrix begin anywhere.
    for grid, (rows, begin) in product((E4M3, INT8, INT4, E2M1), ((COLUMNS, 0), (COLUMNS - 3, 1))):
        both = torch.randn(2, rows + begin, 41, generator=generator).to(device) * 40
        target, values = both[:, begin:]
        coupling = (torch.randn(rows, rows, generator=generator) * 0.1).to(device)
        unit = torch.rand(rows, 41, generator=generator).add_(0.5).to(device)
        for base, step in product((None, values), (None, unit)):
            found = kernel.round_strips(grid, target.clone(), coupling, base, step)
            expected = _by_torch(grid, target.clone(), coupling, base, step)
            agreements += [float((a - b).abs().le(1e-3).float().mean()) for a, b in zip(found, expected, strict=True)]
    # A sum in another order may take a few values across the middle between two codes.
    return min(agreements) >= 0.95


ROUND_ROWS = register(Operation("calibrated rounding", "sequential", _agrees))
