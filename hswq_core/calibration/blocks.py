"""Sums of a tensor on a CPU, block by block, so that each block is read from memory once and then from the cache.

Written as whole-tensor operations, |x|, x^2 and their sums read and write a large tensor seven times, which takes as
long as the layer itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

_BLOCK = 1 << 17  # numbers; half a megabyte, and as much again for |x| or x^2


class Blocks:
    """Scratch memory for the sums of any number of tensors, one after the other."""

    def __init__(self) -> None:
        self._scratch, self._ones = torch.empty(_BLOCK), torch.ones(_BLOCK)
        self._rooms: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def add_input(self, x: torch.Tensor, channel: int, out: torch.Tensor) -> None:
        """Sums of |x|, x and x^2 over all dimensions but ``channel``, into float32 ``out`` [3, C]."""
        if not x.numel():
            return
        if channel == x.dim() - 1:
            self._by_last(x.reshape(-1, x.shape[-1]), out)
        else:
            channels, area = x.shape[channel], x.shape[channel + 1 :].numel()
            self._by_row(x.reshape(-1, area), channels, out)

    def add_output(self, y: torch.Tensor, out: torch.Tensor) -> None:
        """Sums of y and y^2 over everything, into float32 ``out`` [2]."""
        flat = y.reshape(-1)
        if not len(flat):
            return
        parts = [flat] if len(flat) <= _BLOCK else flat.split(_BLOCK)
        sums = out[:, None] if len(parts) == 1 else torch.empty(2, len(parts))
        for block, plain, square in zip(parts, *sums.unbind(), strict=True):
            block = block.float()
            torch.sum(block, 0, out=plain)
            torch.dot(block, block, out=square)
        if len(parts) > 1:
            torch.sum(sums, 1, out=out)

    def _by_last(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Of rows [N, C]: a product with ones adds up columns faster than a sum over the outer dimension does."""
        absolute, plain, square = out[:, None]
        first = 0.0
        for block in _rows_of(x):
            scratch, ones = self._room(*block.shape)
            plain.addmm_(ones, block, beta=first)
            absolute.addmm_(ones, torch.abs(block, out=scratch), beta=first)
            square.addmm_(ones, torch.mul(block, block, out=scratch), beta=first)
            first = 1.0

    def _by_row(self, x: torch.Tensor, channels: int, out: torch.Tensor) -> None:
        """Of planes [N * C, area], those of one picture's channels one after the other."""
        sums, begin = torch.empty(3, len(x)), 0
        for block in _rows_of(x):
            absolute, plain, norm = sums[:, begin : begin + len(block)]
            torch.sum(block, 1, out=plain)
            torch.linalg.vector_norm(block, 2, 1, out=norm)
            torch.sum(torch.abs(block, out=self._room(*block.shape)[0]), 1, out=absolute)
            begin += len(block)
        sums[2].square_()
        torch.sum(sums.view(3, -1, channels), 1, out=out)

    def _room(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scratch [rows, columns] and ones [1, rows]; views are made once, as they cost as much as a small sum."""
        if (rows, columns) not in self._rooms:
            size = rows * columns
            base = self._scratch if size <= _BLOCK else torch.empty(size)  # a single row may be longer than a block
            self._rooms[rows, columns] = base[:size].view(rows, columns), self._ones[None, :rows]
        return self._rooms[rows, columns]


def _rows_of(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Blocks of whole rows, in float32."""
    step = max(1, _BLOCK // max(1, x.shape[1]))
    for block in (x,) if len(x) <= step else x.split(step):
        yield block.float()
