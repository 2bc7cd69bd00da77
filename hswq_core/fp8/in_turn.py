"""Rounding a few columns of a layer one after the other, where each moves what the next are rounded from."""

from __future__ import annotations

import torch

from ..kernels.launch import tried_once, triton_works
from .grid import FP8_MAX

COLUMNS = 32
"""How many at a time, at most: beyond them a matrix product brings up to date what is left."""


def round_in_turn(
    target: torch.Tensor, coupling: torch.Tensor, values: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round ``target`` to the grid, row by row.

    Args:
        target: float32 [N, C_out], in units of the grid, N up to ``COLUMNS``; it may be overwritten.
        coupling: float32 [N, N]; row i > j of the target moves by coupling[j, i] times the change of row j.
        values: what the change of a row is counted from, [N, C_out]; the target itself if there are none.

    Returns: the rounded rows in float32, and the change: values minus rounded.
    """
    if triton_works(target.device) and _kernel_agrees(target.device):
        from ..kernels.in_turn import round_strips

        return round_strips(target, coupling, values)
    return _by_torch(target, coupling, values)


def _by_torch(
    target: torch.Tensor, coupling: torch.Tensor, values: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    rounded, change = torch.empty_like(target), torch.empty_like(target)
    codes = torch.empty(target.shape[1], dtype=torch.float8_e4m3fn, device=target.device)
    for j, wanted in enumerate(target):
        torch.clamp(wanted, -FP8_MAX, FP8_MAX, out=rounded[j])
        rounded[j].copy_(codes.copy_(rounded[j]))
        torch.sub(wanted if values is None else values[j], rounded[j], out=change[j])
        target[j + 1 :].addr_(coupling[j, j + 1 :], change[j])
    return rounded, change


@tried_once("rounding")
def _kernel_agrees(device: torch.device) -> bool:
    from ..kernels.in_turn import round_strips

    generator = torch.Generator().manual_seed(0)
    target, values = (torch.randn(COLUMNS - 3, 100, generator=generator).to(device) * 40 for _ in range(2))
    coupling = (torch.randn(len(target), len(target), generator=generator) * 0.1).to(device)
    agreements = []
    for base in (None, values):
        found = round_strips(target.clone(), coupling, base)
        expected = _by_torch(target.clone(), coupling, base)
        agreements += [float((a - b).abs().le(1e-3).float().mean()) for a, b in zip(found, expected, strict=True)]
    # A sum in another order may take a few values across the middle between two codes.
    return min(agreements) >= 0.95
