"""Sums on a CPU: as few operations as possible for small tensors, and large tensors in blocks that stay in the caches.

A small layer takes microseconds, so the number of operations decides. For a large one memory decides: |x|, x^2 and
their sums read and write a tensor seven times, and where one core reads what another has written, that takes as
long as the layer itself. So every core has its own part of each block.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch

from .base import SeparateSums

# Numbers of a block for each core, half a megabyte and a whole one: inputs need as much again of its cache for |x|.
_INPUT_SHARE, _OUTPUT_SHARE = 1 << 17, 1 << 18


class Scratch:
    """Memory that all layers of a model share, one after the other.

    Views of it are kept for every shape, since making one takes as long as a small sum.
    """

    def __init__(self) -> None:
        self.cores = torch.get_num_threads()
        self._memory = torch.empty(0)
        self._views: dict[torch.Size, torch.Tensor] = {}
        self.ones = cache(lambda *shape: torch.ones(shape))
        self.plane_sums = cache(_plane_sums)

    def like(self, x: torch.Tensor) -> torch.Tensor:
        """Uninitialized float32 memory in x's shape."""
        if x.shape not in self._views:
            if len(self._memory) < x.numel():
                self._memory = torch.empty(x.numel())
                self._views.clear()
            self._views[x.shape] = self._memory[: x.numel()].view(x.shape)
        return self._views[x.shape]


def _plane_sums(images: int, channels: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Memory for three sums of every plane: [3, images, channels], and each of the three as [images * channels]."""
    sums = torch.empty(3, images, channels)
    return sums, sums.view(3, -1).unbind()


class CpuSums(SeparateSums):
    """The running sums of one layer."""

    def __init__(self, input_sums: torch.Tensor, output_sums: torch.Tensor, scratch: Scratch) -> None:
        super().__init__(input_sums, output_sums)
        self._as_columns = input_sums[:, None, None].unbind()
        self._scratch = scratch

    def add_input(self, x: torch.Tensor, channel: int) -> None:
        """Sums of |x|, x and x^2."""
        channels, block = x.shape[channel], _INPUT_SHARE * self._scratch.cores
        divide = x.numel() > 2 * block  # less than two blocks are not worth the operations
        if channel == x.dim() - 1:
            self._by_last(x, max(1, block // channels) if divide else None)
        else:
            area = x.shape[channel + 1 :].numel()
            self._by_plane(x.reshape(-1, area), channels, max(1, block // area) if divide else None)

    def add_output(self, y: torch.Tensor) -> None:
        """Sums of y and y^2."""
        plain, square = self.output_sums
        y, block = y.reshape(-1), _OUTPUT_SHARE * self._scratch.cores
        if len(y) <= 2 * block:
            y = y.float()
            torch.sum(y, 0, out=plain)
            torch.dot(y, y, out=square)
            return
        for part in y.split(block):
            part = part.float()
            plain += part.sum()
            square += part.dot(part)

    def _by_last(self, x: torch.Tensor, rows: int | None) -> None:
        """Sums over rows [..., C], ``rows`` at a time, or all at once."""
        channels = x.shape[-1]
        if rows is None:
            self._add_up_columns(x.reshape(1, -1, channels), self._as_columns)
            return
        for block in x.reshape(-1, channels).split(rows):
            parts = self._scratch.cores if len(block) % self._scratch.cores == 0 else 1
            sums = torch.empty(3, parts, 1, channels)
            self._add_up_columns(block.view(parts, -1, channels), sums)
            self.input_sums += sums.sum((1, 2))

    def _add_up_columns(self, x: torch.Tensor, sums: Iterable[torch.Tensor]) -> None:
        """Sums of [parts, N, C] into three [parts, 1, C]: products with ones are faster than sums over rows."""
        absolute, plain, square = sums
        x, ones, scratch = x.float(), self._scratch.ones(x.shape[0], 1, x.shape[1]), self._scratch.like(x)
        torch.bmm(ones, x, out=plain)
        torch.bmm(ones, torch.abs(x, out=scratch), out=absolute)
        torch.bmm(ones, torch.mul(scratch, scratch, out=scratch), out=square)

    def _by_plane(self, x: torch.Tensor, channels: int, planes: int | None) -> None:
        """Sums over planes [N * C, area], channel by channel of each image, ``planes`` at a time, or all at once."""
        sums, each = self._scratch.plane_sums(len(x) // channels, channels)
        whole = (x, *each)
        blocks = zip(*(t.split(planes) for t in whole), strict=True) if planes else (whole,)
        for block, absolute, plain, norm in blocks:
            block = block.float()
            torch.sum(torch.abs(block, out=self._scratch.like(block)), 1, out=absolute)
            torch.sum(block, 1, out=plain)
            torch.linalg.vector_norm(block, 2, 1, out=norm)
        each[2].square_()
        torch.sum(sums, 1, out=self.input_sums)
