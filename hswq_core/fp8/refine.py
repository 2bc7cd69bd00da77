"""Codes made better one at a time: each to where the layer's output error is least while all others stay.

Error feedback (``rounding.py``) decides on every column once, before those after it are known. Going over them again
(coordinate descent, as in Behdin et al., QuantEase, 2023) never makes the error larger.
"""

from __future__ import annotations

import torch

from .grid import FP8_MAX

_BLOCK = 256
_INNER = 32


def refine(
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
        codes: of Q, ``float8_e4m3fn`` [K, C_out].
        x: float32 [R, K].
        residual: X (W - Q), [R, C_out].
        scale: float32 [1].
    """
    # In units of the grid, where a code is its own value.
    wanted, values, left = columns / scale, codes.float(), residual / scale
    for _ in range(passes):
        for start in range(0, len(values), _BLOCK):
            part, block = x[:, start : start + _BLOCK], values[start : start + _BLOCK]
            error = wanted[start : start + _BLOCK] - block
            curvature = part.t() @ part
            curvature.diagonal().add_(damp)
            pull = torch.addmm(error, part.t(), left, beta=damp)
            left.addmm_(part, _refine_block(block, pull, curvature))
    return values.to(torch.float8_e4m3fn), left * scale


def _refine_block(values: torch.Tensor, pull: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
    """Moves a block's values [B, C_out] in place; returns what was taken off them.

    Args:
        pull: [B, C_out], minus half the derivative of the error by each value.
        curvature: [B, B], half the second derivatives.
    """
    taken = torch.empty_like(values)
    steps = curvature.diagonal().reciprocal()
    rounded = torch.empty(values.shape[1], dtype=torch.float8_e4m3fn, device=values.device)
    for start in range(0, len(values), _INNER):
        end = min(start + _INNER, len(values))
        for j in range(start, end):
            value, change = values[j], taken[j]
            torch.addcmul(value, pull[j], steps[j], out=change)
            rounded.copy_(change.clamp_(-FP8_MAX, FP8_MAX))
            torch.sub(value, rounded.float(), out=change)
            value.sub_(change)
            pull[j + 1 : end].addr_(curvature[j, j + 1 : end], change)
        pull[end:].addmm_(curvature[end:, start:end], taken[start:end])
    return taken
