"""A uniform sample of what a layer multiplies its weights with: input rows, or patches of a convolution's input."""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple

import torch

from .conv_patches import ConvWindow
from .landing import Landing
from .positions import PositionSampler

_LARGEST = torch.finfo(torch.float16).max


class RowSample(NamedTuple):
    """Rows to take from one call: ``size`` of ``seen``, into ``rows`` from the row ``first`` on.

    ``area`` is the output's height and width, for convolutions. ``place`` is where the rows go when they were taken,
    where ``rows`` are on another device than RAM.
    """

    positions: PositionSampler
    window: ConvWindow | None
    area: tuple[int, ...]
    seen: int
    size: int
    first: int
    rows: torch.Tensor
    place: torch.Tensor | None = None

    def chosen(self) -> torch.Tensor:
        """The positions, int64 [size]."""
        return self.positions.pick(self.size, self.seen, self.rows.device)

    def take(self, x: torch.Tensor) -> None:
        """Take them from the layer's input."""
        if self.window is None:
            found = x.reshape(-1, x.shape[-1]).index_select(0, self.chosen())
        else:
            index = self.positions.patches(self.size, self.area, self.window, x.shape[-2:], self.seen, x.device)
            found = index.patches(x)
        if found.dtype != torch.float16:
            found = found.clamp_(-_LARGEST, _LARGEST)
        self.rows[self.first : self.first + self.size].copy_(found)


class Reservoir:
    """A uniform sample of the rows of all calls, in RAM and without ever waiting for the device.

    Every call gives rows in proportion to how many it has, so every row seen is as likely to be in the sample as
    any other. When the sample would outgrow its size, half of it is dropped at random and later calls give
    half as much.

    Args:
        size: how many rows to keep, at most.
        window: of a convolution whose patches are kept; ``None`` for the rows of a Linear.
        landing: brings the rows from the device to RAM.
        calls: how many calls are expected; if there are as many, the sample ends with ``size`` rows exactly.
    """

    def __init__(
        self,
        size: int,
        window: ConvWindow | None,
        positions: PositionSampler,
        landing: Landing,
        calls: float = 1,
    ) -> None:
        self.window = window
        self._landing, self._device = landing, torch.device("cpu")
        self._size, self._positions, self._calls = size, positions, calls
        self._rate = self._due = 0.0
        self._rows: torch.Tensor | None = None
        self._begin = self._taken = 0
        self._sample: torch.Tensor | None = None

    def sample(self, x: torch.Tensor, y: torch.Tensor, channels: int) -> RowSample | None:
        """Which rows of one call to take, and where to put them.

        Args:
            x: the layer's input, [..., C_in] or [B, C_in, H, W].
            y: its output; each of its positions (as many as one of its ``channels`` has) multiplies one row.
        """
        seen = y.numel() // channels
        if not seen:
            return None
        if not self._rate:
            self._rate = min(1.0, self._size / (seen * self._calls))
            # A random phase instead of rounding: over the calls, fractions of rows come out right on average.
            self._due = self._positions.phase(seen)
        count = self._count(seen)
        while self._taken + count > self._size and self._taken:
            self._drop_half()
            count = self._count(seen)
        count = min(count, self._size, seen)
        self._due += self._rate * seen - count
        if not count:
            return None
        rows = self._rows
        if rows is None:
            width = x.shape[-1] if self.window is None else x.shape[-3] * math.prod(self.window.kernel)
            rows = self._rows = torch.empty(self._size, width, dtype=torch.float16)
            self._device = x.device
        first = self._taken
        self._begin, self._taken = first, first + count
        what = (self._positions, self.window, y.shape[-2:], seen, count)
        if not self._landing.is_needed(self._device):
            return RowSample(*what, first, rows)
        few = torch.empty(count, rows.shape[1], dtype=torch.float16, device=self._device)
        return RowSample(*what, 0, few, rows[first : self._taken])

    def taken(self, sample: RowSample) -> None:
        """The rows of a sample were taken from the layer's input."""
        if sample.place is not None:
            self._landing.send(sample.rows, sample.place)

    def fork(self, without_last: bool) -> Reservoir:
        """An independent copy of the sample so far, with or without the rows of the last call."""
        self._landing.wait()
        other = copy(self)
        other._taken = self._begin if without_last else self._taken
        other._rows = None if self._rows is None else self._rows.clone()
        return other

    def rows(self) -> torch.Tensor | None:
        """The sample, float16 [up to size, K] on the CPU; the same tensor for all layers that share it."""
        if self._sample is None and self._rows is not None:
            self._landing.wait()
            self._sample = self._rows[: self._taken]
        return self._sample

    def _count(self, seen: int) -> int:
        return int(self._due + self._rate * seen)

    def _drop_half(self) -> None:
        assert self._rows is not None
        half = self._taken // 2
        self._landing.wait()
        self._rows[:half] = self._rows[self._positions.pick(half, self._taken, self._device).cpu()]
        self._taken, self._rate = half, self._rate / 2
