"""Codes made better one at a time: each to where the layer's output error is least while all others stay.

Error feedback (``gptq.py``) decides on every column once, before those after it are known. Going over them again
(coordinate descent, as in Behdin et al., QuantEase, 2023) never makes the error larger.
"""

from __future__ import annotations

import torch

from ..grids import Grid
from .sequential import COLUMNS, round_rows

_BLOCK = 256


def refine(
    grid: Grid,
    columns: torch.Tensor,
    codes: torch.Tensor,
    x: torch.Tensor,
    residual: torch.Tensor,
    scale: torch.Tensor,
    damp: float,
    passes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes with a smaller |X (W - Q)|^2 + damp |W - Q|^2, and X (W - Q) for them.

    Args:
        columns: W, float32 [K, C_out]: a row of it is a column of the layer.
        codes: of Q, the grid's type [K, C_out].
        x: float32 [R, K].
        residual: X (W - Q), [R, C_out].
        scale: float32 [1], or [C_out]; [K, C_out] where columns have scales of their own.
    """
    if scale.dim() == 2:
        values, left = codes.float().mul_(scale), residual.clone()
        _refine(grid, columns, values, x, left, damp, passes, scale)
        return grid.nearest(values.div_(scale)), left
    # In units of the grid, where a code is its own value.
    values, left = codes.float(), residual / scale
    _refine(grid, columns / scale, values, x, left, damp, passes)
    return values.to(grid.held_as(values.device)), left * scale


def _refine(
    grid: Grid,
    wanted: torch.Tensor,
    values: torch.Tensor,
    x: torch.Tensor,
    left: torch.Tensor,
    damp: float,
    passes: int,
    unit: torch.Tensor | None = None,
) -> None:
    """Changes ``values`` [K, C_out] and ``left``, X (wanted - values) [R, C_out], in place.

    Args:
        unit: what a code stands for, [K, C_out]; one if there is none.
    """
    for _ in range(passes):
        for start in range(0, len(values), _BLOCK):
            part, block = x[:, start : start + _BLOCK], values[start : start + _BLOCK]
            error = wanted[start : start + _BLOCK] - block
            curvature = part.t() @ part
            curvature.diagonal().add_(damp)
            gradient = torch.addmm(error, part.t(), left, beta=damp)
            here = None if unit is None else unit[start : start + _BLOCK]
            left.addmm_(part, _refine_block(grid, block, gradient, curvature, here))


def _refine_block(
    grid: Grid, values: torch.Tensor, gradient: torch.Tensor, curvature: torch.Tensor, unit: torch.Tensor | None
) -> torch.Tensor:
    """Moves a block's values [B, C_out] in place; returns the old values minus the new.

    Args:
        gradient: [B, C_out], minus half the derivative of the error by each value.
        curvature: [B, B], half the second derivatives.
    """
    change = torch.empty_like(values)
    steps = curvature.diagonal().reciprocal()
    coupling = curvature * steps
    for start in range(0, len(values), COLUMNS):
        here, rest = slice(start, start + COLUMNS), slice(start + COLUMNS, None)
        best = torch.addcmul(values[here], gradient[here], steps[here, None])
        values[here], change[here] = round_rows(
            grid, best, coupling[here, here], values[here], None if unit is None else unit[here]
        )
        gradient[rest].addmm_(curvature[rest, here], change[here])
    return change
