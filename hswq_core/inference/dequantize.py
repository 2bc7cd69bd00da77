"""Codes to the type that is computed in: multiplied in float32, rounded once."""

from __future__ import annotations

from types import ModuleType

import torch

from ..backend import Operation
from ..grids import E4M3


def dequantize(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """W = codes * scale in ``dtype``.

    Args:
        codes: any shape, an 8-bit type.
        scale: float32, broadcastable to ``codes``.
    """
    kernel = DEQUANTIZE.kernel(codes.device) if fits_kernel(codes, scale) else None
    return _by_torch(codes, scale, dtype) if kernel is None else kernel.dequantize(codes, scale, dtype)


def fits_kernel(codes: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether the kernel is for this weight: e4m3 (files of other tools have e5m2, too) with one scale."""
    one_scale = scale.numel() == 1 and scale.dtype == torch.float32 and scale.device == codes.device
    return codes.dtype == E4M3.dtype and one_scale and codes.is_contiguous()


def _by_torch(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not codes.dtype.is_floating_point:
        if torch.compiler.is_compiling():
            return (codes.float() * scale).to(dtype)  # which the compiler makes one launch of
        # One launch, in float32, rounded once.
        return torch.mul(codes, scale, out=torch.empty(codes.shape, dtype=dtype, device=codes.device))
    # An in-place product is computed in the wider of both types, float32, and rounded into the narrower.
    return codes.to(dtype).mul_(scale)


def _agrees(kernel: ModuleType, device: torch.device) -> bool:
    codes = torch.arange(126, dtype=torch.uint8, device=device).view(E4M3.dtype)
    scale = torch.tensor([0.37], device=device)
    return torch.equal(kernel.dequantize(codes, scale, torch.float16), _by_torch(codes, scale, torch.float16))


DEQUANTIZE = Operation("dequantizing", "e4m3", _agrees)
