"""FP8 weights to the type that is computed in, and inputs to FP8: computed in float32, rounded once."""

# Triton takes annotations for types of its own.
# pyright: reportMissingParameterType=false

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from ..grids.e4m3 import E4M3
from .launch import Kernel, is_aligned

_BLOCK = tl.constexpr(2048)
_FP8_MAX = tl.constexpr(E4M3.largest)


def dequantize(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """W = W8 * scale.

    Args:
        codes: ``float8_e4m3fn``, contiguous.
        scale: float32, one number.
        dtype: of the result.
    """
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    count = codes.numel()
    if count:
        source = codes.view(torch.uint8)
        kind = (dtype, codes.device, is_aligned(source, scale), count % 16 == 0, count == 1, count < 1 << 31)
        _dequantize.launch(triton.cdiv(count, _BLOCK.value), kind, source, scale, out, count)
    return out


def quantize(x: torch.Tensor, scale_floor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 codes and the scale that takes the largest magnitude to the end of the grid.

    Args:
        x: contiguous.
        scale_floor: the least scale, so that zeros do not divide by zero.

    Returns: ``float8_e4m3fn`` in x's shape, and float32 [1].
    """
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    largest, scale = _zero(x.device), torch.empty(1, device=x.device)
    count = x.numel()
    programs = triton.cdiv(count, _BLOCK.value)
    kind = (x.dtype, x.device, is_aligned(x), count % 16 == 0, count == 1, count < 1 << 31)
    _largest.launch(programs, kind, x, largest, count)
    _quantize.launch(programs, kind, x, largest, scale_floor, codes, scale, count)
    return codes, scale


def _zero(device: torch.device) -> torch.Tensor:
    """A zero that no kernel has written to yet. They are made many at a time, in one launch, for each stream."""
    place = (device, torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0)
    found = next(_zeros.get(place, iter(())), None)
    if found is None:
        # Each begins at a multiple of 16 bytes, as kernels are compiled for.
        _zeros[place] = iter(torch.zeros(4 * _ZEROS, device=device).split(4))
        found = next(_zeros[place])
    return found[:1]


_ZEROS = 1024
_zeros: dict[tuple[torch.device, int], Iterator[torch.Tensor]] = {}


@triton.jit
def _decode(code):
    """The value of an e4m3 code. Its bits, shifted, are those of an FP16 number 256 times smaller.

    By hand, since Triton converts e4m3 only for GPUs that compute in it.
    """
    bits = code.to(tl.int16)
    half = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)
    return tl.where((bits & 0x7F) == 0x7F, float("nan"), half.to(tl.float32) * 256.0)


@triton.jit
def _dequantize_block(codes, scale, out, count):
    at = tl.program_id(0).to(tl.int64) * _BLOCK + tl.arange(0, _BLOCK)
    inside = at < count
    value = _decode(tl.load(codes + at, mask=inside, other=0)) * tl.load(scale)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


_dequantize = Kernel(_dequantize_block)


@triton.jit
def _largest_of_block(x, largest, count):
    at = tl.program_id(0).to(tl.int64) * _BLOCK + tl.arange(0, _BLOCK)
    value = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    tl.atomic_max(largest, tl.max(tl.abs(value), 0), sem="relaxed")


@triton.jit
def _quantize_block(x, largest, scale_floor, codes, scale, count):
    unit = tl.maximum(tl.load(largest) / _FP8_MAX, scale_floor)
    if tl.program_id(0) == 0:
        tl.store(scale, unit)
    at = tl.program_id(0).to(tl.int64) * _BLOCK + tl.arange(0, _BLOCK)
    value = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32) / unit
    value = tl.minimum(tl.maximum(value, -_FP8_MAX), _FP8_MAX)
    tl.store(codes + at, value.to(tl.float8e4nv), mask=at < count)


_largest, _quantize = Kernel(_largest_of_block), Kernel(_quantize_block)
