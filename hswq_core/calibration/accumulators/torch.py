"""Sums by torch's reductions, for devices without Triton that are not a CPU.

A norm is reduced without writing squares to memory first; its square, the sum of squares, is left to the caller.
"""

from __future__ import annotations

import torch

from .base import SeparateSums


class TorchSums(SeparateSums):
    """The running sums of one layer; the last of the input's and of the output's hold norms."""

    def __init__(self, input_sums: torch.Tensor, output_sums: torch.Tensor) -> None:
        super().__init__(input_sums, output_sums)
        self._by_sum = input_sums.unbind()

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
        plain, norm = self.output_sums
        torch.sum(y, tuple(range(y.dim())), dtype=torch.float32, out=plain)
        torch.linalg.vector_norm(y, 2, dtype=torch.float32, out=norm)
