"""A grid: the values that a quantized weight can take, and the codes of 8 bits or fewer that they are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from ..devices import holds

SIXTEEN_BITS = (torch.float16, torch.bfloat16)

Scaling = Literal["none", "tensor", "channel", "group", "block"]
"""What a scale is for: nothing, the weight, each output channel, or each group or (shorter) block of columns of it."""

_MIN_TABLE_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Grid:
    """A grid of 8 bits or fewer, symmetric around zero.

    Neighbouring values are a fixed fraction of their power of two apart, except below ``least_normal``, where
    the spacing stays the same. An integer grid is the case in which ``least_normal`` is above ``largest``.

    Attributes:
        name: what people call it.
        dtype: torch's type of the codes. Where torch has no type of these values alone, one that has others, too.
        file_dtype: the name of the type that files hold them in.
        largest: the largest magnitude.
        least_normal: the magnitude below which the spacing no longer shrinks.
        mantissa_bits: at and above ``least_normal``, 2^mantissa_bits steps lead from one power of two to the next.
    """

    name: str
    dtype: torch.dtype
    file_dtype: str
    largest: float
    least_normal: float
    mantissa_bits: int

    @property
    def is_self_similar(self) -> bool:
        """Whether doubling all values gives the same grid, away from its ends: true of floating-point grids."""
        return self.least_normal < self.largest

    def magnitudes(self) -> torch.Tensor:
        """The non-negative values, ascending: float32 [N], as torch decodes the codes."""
        return _magnitudes(self)

    def held_as(self, device: torch.device) -> torch.dtype:
        """The type of codes on a device: FP16, which holds the values of all grids, where it has no FP8."""
        return self.dtype if not self.dtype.is_floating_point or holds(self.dtype, device) else torch.float16

    def stored(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes in the grid's own type, which a file has: on the CPU where their device lacks it."""
        return codes if codes.dtype == self.dtype else codes.cpu().to(self.dtype)

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """The codes of the nearest values, ties to even, saturating at the largest. NaN stays NaN.

        Args:
            values: any shape, float32; may be overwritten.
        """
        return self._saturated(values).to(self.held_as(values.device))

    def nearest_values(self, values: torch.Tensor) -> torch.Tensor:
        """The same as values, float32: what ``nearest`` gives, decoded."""
        near = self._saturated(values)
        return near.to(self.dtype).float() if self._is_rounded_to_by_cast(near.device) else near

    def _is_rounded_to_by_cast(self, device: torch.device) -> bool:
        """Whether the device has a type of these values and no others."""
        held = self.held_as(device)
        return held.is_floating_point and torch.finfo(held).max == self.largest

    def _saturated(self, values: torch.Tensor) -> torch.Tensor:
        """Values within the range, on the grid unless a cast puts them there."""
        # Torch's cast turns what lies beyond the range into NaN, so saturate first.
        clamped = values.clamp_(-self.largest, self.largest)
        if self._is_rounded_to_by_cast(values.device):
            return clamped
        return self._rounded(clamped) if self.dtype.is_floating_point else clamped.round_()

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        """What a cast would do, had torch a type for it. Float32 within the range."""
        power = (values.view(torch.int32) & 0x7F800000).view(torch.float32)
        step = power.clamp_(min=self.least_normal).mul_(2.0**-self.mantissa_bits)
        return (values / step).round_().mul_(step)

    def quantize(self, weight: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
        """The codes of W / scale, nearest with ties to even.

        Args:
            weight: any shape, any float dtype.
            scale: positive, broadcastable to ``weight``.

        Returns:
            The shape of ``weight``, in the type of codes on its device.
        """
        divisor = torch.as_tensor(scale, dtype=torch.float32)
        by_table = weight.dtype in SIXTEEN_BITS and divisor.numel() == 1 and weight.numel() >= _MIN_TABLE_ELEMENTS
        if weight.device.type != "cpu" or not by_table:
            return self.nearest(weight.float() / divisor.to(weight.device))
        # All 65,536 values of a 16-bit type rounded once, then looked up: a quarter of the cast's time on a CPU.
        every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(weight.dtype)
        table = self.nearest(every.float() / divisor.reshape(()).cpu()).view(torch.uint8)
        return table.index_select(0, bit_patterns(weight)).view(self.dtype).view(weight.shape)

    def dequantize(self, codes: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
        """The weight that a loader computes, codes * scale, in float32."""
        return codes.float() * scale


@cache
def _magnitudes(grid: Grid) -> torch.Tensor:
    values = torch.arange(256, dtype=torch.uint8).view(grid.dtype).float()
    return values[(values >= 0) & (grid.quantize(values).float() == values)].unique()


def bit_patterns(weight: torch.Tensor) -> torch.Tensor:
    """The bits of a 16-bit weight as numbers from 0 to 65,535: int32 [elements]."""
    return weight.contiguous().view(torch.int16).flatten().to(torch.int32).bitwise_and_(0xFFFF)
