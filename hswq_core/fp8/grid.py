"""The FP8 grid as the hardware has it: all 256 bytes cast to ``torch.float8_e4m3fn``, not a formula."""

from __future__ import annotations

from functools import cache

import torch

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
SIXTEEN_BITS = (torch.float16, torch.bfloat16)


@cache
def magnitudes() -> torch.Tensor:
    """The finite non-negative values of e4m3, ascending: float32 [127], from 0 to 448."""
    values = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    return values[values.isfinite() & (values >= 0)].unique()


def quantize(weight: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """The codes W8 = round(W / scale), nearest with ties to even, saturating at +-448.

    Args:
        weight: any shape, any float dtype.
        scale: positive, broadcastable to ``weight``.

    Returns:
        ``float8_e4m3fn``, the shape of ``weight``. NaN stays NaN.
    """
    divisor = torch.as_tensor(scale, dtype=torch.float32)
    if weight.dtype not in SIXTEEN_BITS or divisor.numel() != 1 or weight.numel() < 1 << 16:
        return _round(weight, divisor)
    # All 65,536 values of a 16-bit type rounded once, then looked up: a quarter of the cast's time.
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(weight.dtype)
    table = _round(every, divisor.reshape(()).cpu()).view(torch.uint8).to(weight.device)
    return table.index_select(0, patterns(weight)).view(FP8).view(weight.shape)


def patterns(weight: torch.Tensor) -> torch.Tensor:
    """The bit patterns of a 16-bit weight as numbers from 0 to 65,535: int32 [elements]."""
    return weight.contiguous().view(torch.int16).flatten().to(torch.int32).bitwise_and_(0xFFFF)


def _round(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    # Torch's cast turns what lies beyond the range into NaN, so saturate first.
    return (weight.float() / scale.to(weight.device)).clamp_(-FP8_MAX, FP8_MAX).to(FP8)


def dequantize(codes: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """The weight W = W8 * scale that a loader computes, in float32."""
    return codes.float() * scale
