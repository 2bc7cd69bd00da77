"""The FP8 grid as the hardware has it: all 256 bytes cast to ``torch.float8_e4m3fn``, not a formula."""

from __future__ import annotations

from functools import cache

import torch

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


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
    # Torch's cast turns what lies beyond the range into NaN, so saturate first.
    return (weight.float() / scale).clamp_(-FP8_MAX, FP8_MAX).to(FP8)


def dequantize(codes: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """The weight W = W8 * scale that a loader computes, in float32."""
    return codes.float() * scale
