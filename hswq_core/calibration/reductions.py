"""Sums of a tensor by torch's reductions, for devices that have neither Triton nor a cache to work block by block in.

A norm is reduced without writing squares to memory first; its square, the sum of squares, is left to the caller.
"""

from __future__ import annotations

import torch

from .places import SeparateSums


class ReductionSums(SeparateSums):
    """The places of one layer; the last of the input's and of the output's get norms."""

    def __init__(self, places: torch.Tensor, results: torch.Tensor) -> None:
        super().__init__(places, results)
        self._by_sum = places.unbind()

    def add_input(self, x: torch.Tensor, channel: int) -> None:
        """Sums of |x| and x, and the norm of x."""
        absolute, plain, norm = self._by_sum
        over = [d for d in range(x.dim()) if d != channel]
        if not over:  # a single vector: every channel was seen once
            for sums, value in ((absolute, x.abs()), (plain, x), (norm, x.abs())):
                sums.copy_(value)
            return
        torch.linalg.vector_norm(x, 1, over, dtype=torch.float32, out=absolute)
        torch.sum(x, over, dtype=torch.float32, out=plain)
        torch.linalg.vector_norm(x, 2, over, dtype=torch.float32, out=norm)

    def add_output(self, y: torch.Tensor) -> None:
        """Sum and norm of y."""
        plain, norm = self.results
        torch.sum(y, tuple(range(y.dim())), dtype=torch.float32, out=plain)
        torch.linalg.vector_norm(y, 2, dtype=torch.float32, out=norm)
