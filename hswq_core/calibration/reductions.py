"""Sums of a tensor by torch's reductions, for devices that have neither Triton nor a cache to work block by block in.

A norm is reduced without writing squares to memory first; its square, the sum of squares, is left to the caller.
"""

from __future__ import annotations

import torch


def add_input(x: torch.Tensor, channel: int, out: torch.Tensor) -> None:
    """Sums of |x| and x, and the norm of x, over all dimensions but ``channel``, into float32 ``out`` [3, C]."""
    absolute, plain, norm = out
    over = [d for d in range(x.dim()) if d != channel]
    if not over:  # a single vector: every channel was seen once
        for sums, value in ((absolute, x.abs()), (plain, x), (norm, x.abs())):
            sums.copy_(value)
        return
    torch.linalg.vector_norm(x, 1, over, dtype=torch.float32, out=absolute)
    torch.sum(x, over, dtype=torch.float32, out=plain)
    torch.linalg.vector_norm(x, 2, over, dtype=torch.float32, out=norm)


def add_output(y: torch.Tensor, out: torch.Tensor) -> None:
    """Sum and norm of y, into float32 ``out`` [2]."""
    plain, norm = out
    torch.sum(y, tuple(range(y.dim())), dtype=torch.float32, out=plain)
    torch.linalg.vector_norm(y, 2, dtype=torch.float32, out=norm)
