"""A uniform sample of what a layer multiplies its weights with: input rows, or unfolded patches of a convolution."""

from __future__ import annotations

import math
import random
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Window:
    """How a convolution with zero padding walks over its input: (height, width) pairs."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @staticmethod
    def of(module: Any) -> Window | None:
        """The window of a Conv2d; ``None`` where its padding is not of zeros, so that patches cannot be told."""
        if isinstance(module.padding, str) or getattr(module, "padding_mode", "zeros") != "zeros":
            return None
        return Window(tuple(module.kernel_size), tuple(module.stride), tuple(module.padding), tuple(module.dilation))


class Positions:
    """Which positions of a call are sampled. All layers with as many positions look at the same ones.

    Each layer's sample is uniform all the same, and a step draws a handful of permutations instead of hundreds.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._host = random.Random(seed)
        self._generators: dict[torch.device, torch.Generator] = {}
        self._phases: dict[int, float] = {}
        self._orders: dict[tuple[torch.device, int], torch.Tensor] = {}
        self._picked: dict[tuple[torch.device, int, int], torch.Tensor] = {}
        self._taps: dict[tuple[Any, ...], Taps] = {}

    def renew(self) -> None:
        """Forget the positions drawn: a new call of the model begins."""
        self._orders.clear()
        self._picked.clear()
        self._taps.clear()

    def phase(self, of: int) -> float:
        """A random number in [0, 1), the same for all layers of so many positions, so that they draw as many."""
        return self._phases.setdefault(of, self._host.random())

    def pick(self, count: int, of: int, device: torch.device) -> torch.Tensor:
        """``count`` different positions out of ``of``, int64 on the device."""
        picked = self._picked.get((device, of, count))
        if picked is None:
            if (device, of) not in self._orders:
                if device not in self._generators:
                    self._generators[device] = torch.Generator(device).manual_seed(self._seed)
                self._orders[device, of] = torch.randperm(of, device=device, generator=self._generators[device])
            picked = self._picked[device, of, count] = self._orders[device, of][:count]
        return picked

    def taps(
        self, count: int, area: tuple[int, ...], window: Window, size: tuple[int, ...], of: int, device: torch.device
    ) -> Taps:
        """Where the window reads for ``count`` output positions out of ``of``.

        Args:
            area, size: height and width of the output and of the input.
        """
        key = (device, of, count, area, window, size)
        if key not in self._taps:
            self._taps[key] = Taps.of(self.pick(count, of, device), area, window, size)
        return self._taps[key]


@dataclass(frozen=True)
class Taps:
    """Indices into [B, H, W] that give patches [N, kH, kW], and which of them are inside the picture."""

    batch: torch.Tensor
    down: torch.Tensor
    across: torch.Tensor
    inside: torch.Tensor | None

    @staticmethod
    def of(chosen: torch.Tensor, area: tuple[int, ...], window: Window, size: tuple[int, ...]) -> Taps:
        height, width = area
        batch = chosen // (height * width)
        corners = (chosen // width % height, chosen % width)
        if window.kernel == (1, 1) and window.padding == (0, 0):
            down, across = (corner * stride for corner, stride in zip(corners, window.stride, strict=True))
            return Taps(batch, down, across, None)
        inside, index = None, []
        for axis, corner in enumerate(corners):
            taps = torch.arange(window.kernel[axis], device=chosen.device) * window.dilation[axis]
            at = (corner * window.stride[axis] - window.padding[axis])[:, None] + taps
            at = at[:, :, None] if axis == 0 else at[:, None, :]
            clamped = at.clamp(0, size[axis] - 1)
            within = at == clamped
            inside = within if inside is None else inside & within
            index.append(clamped)
        assert inside is not None
        return Taps(batch[:, None, None], index[0], index[1], inside[..., None])


class Draw(NamedTuple):
    """Rows to take from one call: ``size`` of ``seen``, into ``rows`` from the row ``first`` on.

    ``area`` is the output's height and width, for convolutions.
    """

    positions: Positions
    window: Window | None
    area: tuple[int, ...]
    seen: int
    size: int
    first: int
    rows: torch.Tensor

    def chosen(self) -> torch.Tensor:
        """The positions, int64 [size]."""
        return self.positions.pick(self.size, self.seen, self.rows.device)

    def take(self, x: torch.Tensor) -> None:
        """Take them from the layer's input."""
        if self.window is None:
            found = x.reshape(-1, x.shape[-1]).index_select(0, self.chosen())
        else:
            taps = self.positions.taps(self.size, self.area, self.window, x.shape[-2:], self.seen, x.device)
            found = _patches(x, taps)
        if found.dtype != torch.float16:
            found = found.clamp_(-_LARGEST, _LARGEST)
        self.rows[self.first : self.first + self.size].copy_(found)


class Reservoir:
    """A uniform sample of the rows of all calls, on the device and without ever waiting for it.

    Every call gives rows in proportion to how many it has, so every row seen is as likely to be in the sample as
    any other. When the sample would outgrow its size, half of it is dropped at random and later calls give
    half as much.

    Args:
        size: how many rows to keep, at most.
        window: of a convolution whose patches are kept; ``None`` for the rows of a Linear.
        calls: how many calls are expected; if there are as many, the sample ends with ``size`` rows exactly.
    """

    def __init__(self, size: int, window: Window | None, positions: Positions, calls: float = 1) -> None:
        self.window = window
        self._size, self._positions, self._calls = size, positions, calls
        self._rate = self._due = 0.0
        self._rows: torch.Tensor | None = None
        self._begin = self._taken = 0
        self._sample: torch.Tensor | None = None

    def draw(self, x: torch.Tensor, y: torch.Tensor, channels: int) -> Draw | None:
        """Which rows of one call to take, in a place made for them; the caller puts them there.

        Args:
            x: the layer's input, [..., C_in] or [B, C_in, H, W].
            y: its output; each position of it, of which there are as many as in one of its ``channels``, multiplies
                one row.
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
        if self._rows is None:
            width = x.shape[-1] if self.window is None else x.shape[-3] * math.prod(self.window.kernel)
            self._rows = torch.empty(self._size, width, dtype=torch.float16, device=x.device)
        self._begin = self._taken
        self._taken += count
        return Draw(self._positions, self.window, y.shape[-2:], seen, count, self._begin, self._rows)

    def fork(self, without_last: bool) -> Reservoir:
        """Another sample of what was seen so far, with or without the last call, that goes its own way from here."""
        other = copy(self)
        other._taken = self._begin if without_last else self._taken
        other._rows = None if self._rows is None else self._rows.clone()
        return other

    def rows(self) -> torch.Tensor | None:
        """The sample, float16 [up to size, K] on the CPU; the same tensor for all layers that share it."""
        if self._sample is None and self._rows is not None:
            self._sample = self._rows[: self._taken].cpu()
        return self._sample

    def _count(self, seen: int) -> int:
        return int(self._due + self._rate * seen)

    def _drop_half(self) -> None:
        assert self._rows is not None
        half = self._taken // 2
        self._rows[:half] = self._rows[self._positions.pick(half, self._taken, self._rows.device)]
        self._taken, self._rate = half, self._rate / 2


def _patches(x: torch.Tensor, taps: Taps) -> torch.Tensor:
    """The inputs of some output positions, [N, C_in * kH * kW], ordered as a flattened weight is."""
    x = x if x.dim() == 4 else x[None]
    # [N, kH, kW, C_in], or [N, C_in] for a window of one pixel.
    found = x.movedim(1, -1)[taps.batch, taps.down, taps.across]
    if taps.inside is None:
        return found
    # Zero where the window reaches beyond the picture.
    return (found * taps.inside).movedim(-1, 1).flatten(1)
