"""Codes to the type that is computed in: multiplied in float32, rounded once."""

from __future__ import annotations

import math
from itertools import product
from types import ModuleType

import torch

from ..backend import COMPUTED_IN, KITCHEN, Operation, register
from ..grids import E4M3
from .dequantize_cpu import dequantize_in_blocks


def dequantize(
    codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, out: torch.Tensor | None = None
) -> torch.Tensor:
    """W = codes * scale in ``dtype``.

    Args:
        codes: any shape, an 8-bit type.
        scale: float32, broadcastable to ``codes``.
        out: memory that may be used for W, of its shape and type.
    """
    kernel = _kernel_for(codes, scale)
    if kernel is not None:
        return kernel.dequantize(codes, scale, dtype)
    if codes.device.type == "cpu" and _fits_blocks(codes, scale):
        return dequantize_in_blocks(codes, scale, torch.empty(codes.shape, dtype=dtype) if out is None else out)
    return _by_torch(codes, scale, dtype)


def _kernel_for(codes: torch.Tensor, scale: torch.Tensor) -> ModuleType | None:
    """Triton's before comfy-kitchen's, which takes longer to launch."""
    if fits_kernel(codes, scale):
        return DEQUANTIZE.kernel(codes.device) or DEQUANTIZE_BY_KITCHEN.kernel(codes.device)
    if codes.dtype == torch.int8 and codes.device.type != "cpu" and _is_plain(codes, scale):
        return DEQUANTIZE_INTEGERS.kernel(codes.device)
    return None


def fits_kernel(codes: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether the kernel is for this weight: e4m3 (files of other tools have e5m2, too) with one scale."""
    one_scale = scale.numel() == 1 and scale.dtype == torch.float32 and scale.device == codes.device
    return codes.dtype == E4M3.dtype and one_scale and codes.is_contiguous()


def _fits_blocks(codes: torch.Tensor, scale: torch.Tensor) -> bool:
    return _is_plain(codes, scale) and not torch.compiler.is_compiling()


def _is_plain(codes: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether these are codes of a layer, with one scale or one for each output channel."""
    by_channel = scale.dim() == codes.dim() and scale.numel() == scale.shape[0] == codes.shape[0]
    is_plain = codes.is_contiguous() and scale.dtype == torch.float32 and scale.device == codes.device
    return is_plain and codes.numel() > 0 and codes.dim() > 1 and (scale.numel() == 1 or by_channel)


def _by_torch(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not codes.dtype.is_floating_point:
        if torch.compiler.is_compiling():
            return (codes.float() * scale).to(dtype)  # which the compiler makes one launch of
        # One launch, in float32, rounded once.
        return torch.mul(codes, scale, out=torch.empty(codes.shape, dtype=dtype, device=codes.device))
    # An in-place product is computed in the wider of both types, float32, and rounded into the narrower.
    return codes.to(dtype).mul_(scale)


# Linear layers and convolutions, of one block and of several; a multiple of 16, and not.
_SHAPES = ((48, 64), (7, 9), (32, 8, 3, 3), (5, 4, 3, 3))


def _agrees(kernel: ModuleType, device: torch.device) -> bool:
    codes = torch.arange(4096, device=device).mul_(37).to(torch.uint8)
    scale = torch.tensor([0.37], device=device)
    for dtype, shape, begin in product(COMPUTED_IN, _SHAPES, (0, 1)):
        # Some compilers do not round to BF16's nearest.
        close = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0
        part = codes[begin : begin + math.prod(shape)].view(E4M3.dtype).view(shape)
        for factor in (scale, scale.reshape(())):
            found, expected = kernel.dequantize(part, factor, dtype), _by_torch(part, factor, dtype)
            if found.dtype != dtype or not torch.allclose(found, expected, rtol=close, atol=0, equal_nan=True):
                return False
    return True


def _integers_agree(kernel: ModuleType, device: torch.device) -> bool:
    for dtype, shape in product(COMPUTED_IN, _SHAPES):
        close = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0
        codes = torch.arange(math.prod(shape), device=device).mul_(37).to(torch.int8).view(shape)
        by_channel = torch.linspace(0.01, 0.5, shape[0], device=device).view(-1, *[1] * (len(shape) - 1))
        for scale in (by_channel, torch.tensor(0.37, device=device)):
            found, expected = kernel.dequantize(codes, scale, dtype), _by_torch(codes, scale, dtype)
            if found.dtype != dtype or not torch.allclose(found, expected, rtol=close, atol=0):
                return False
    return True


DEQUANTIZE = register(Operation("dequantizing", "e4m3", _agrees))
DEQUANTIZE_BY_KITCHEN = register(Operation("dequantizing FP8", "kitchen", _agrees, KITCHEN))
DEQUANTIZE_INTEGERS = register(Operation("dequantizing INT8", "kitchen", _integers_agree, KITCHEN))
