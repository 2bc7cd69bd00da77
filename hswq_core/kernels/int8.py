"""Inputs of Linear layers to INT8, and the sums of their products to outputs: computed in float32, rounded once."""

# Triton takes annotations for types of its own.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import Kernel, is_aligned

_COLUMNS, _BLOCK = tl.constexpr(1024), tl.constexpr(2048)
_LARGEST = tl.constexpr(127.0)
_ROUNDING = tl.constexpr(12582912.0)  # 1.5 * 2^23: what is added to it and taken away again is rounded to nearest even


def quantize_rows(rows: torch.Tensor, scale_floor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and a scale for each row, which is not finite where the row is not.

    Args:
        rows: [M, K], contiguous.
        scale_floor: the least scale, so that zeros do not divide by zero.

    Returns: int8 [M, K], float32 [M, 1].
    """
    codes = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
    scale = torch.empty(len(rows), 1, device=rows.device)
    columns = rows.shape[1]
    if len(rows):
        kind = (rows.dtype, rows.device, is_aligned(rows), columns % 16 == 0, columns == 1)
        _quantize.launch(len(rows), kind, rows, codes, scale, scale_floor, columns)
    return codes, scale


def scale_sums(
    sums: torch.Tensor, row_scale: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """sums * (row_scale * scale) + bias.

    Args:
        sums: int32 [M, N], contiguous.
        row_scale, scale: float32, M and N numbers.
        bias: N numbers of ``dtype``.
    """
    out = torch.empty(sums.shape, dtype=dtype, device=sums.device)
    count, columns = sums.numel(), sums.shape[1]
    if count:
        added = out if bias is None else bias.contiguous()
        kind = (dtype, sums.device, is_aligned(sums, row_scale, scale, added), count % 16 == 0, count == 1)
        kind += (columns % 16 == 0, columns == 1, bias is None, count < 1 << 31)
        programs = triton.cdiv(count, _BLOCK.value)
        _scale.launch(programs, kind, sums, row_scale, scale, added, out, count, columns, int(bias is not None))
    return out


@triton.jit
def _quantize_row(x, codes, scale, scale_floor, columns):
    row = tl.program_id(0).to(tl.int64) * columns
    at = tl.arange(0, _COLUMNS)
    largest = tl.zeros([_COLUMNS], tl.float32)
    strange = tl.zeros([_COLUMNS], tl.float32)
    for begin in range(0, columns, _COLUMNS):
        value = tl.load(x + row + begin + at, mask=begin + at < columns, other=0.0).to(tl.float32)
        is_finite = tl.abs(value) < float("inf")
        largest = tl.maximum(largest, tl.where(is_finite, tl.abs(value), 0.0))
        strange += tl.where(is_finite, 0.0, 1.0)
    unit = tl.maximum(tl.max(largest, 0) / _LARGEST, scale_floor)
    tl.store(scale + tl.program_id(0), tl.where(tl.sum(strange, 0) == 0.0, unit, float("nan")))
    for begin in range(0, columns, _COLUMNS):
        inside = begin + at < columns
        value = tl.load(x + row + begin + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(tl.abs(value) < float("inf"), value, 0.0) / unit
        value = tl.minimum(tl.maximum((value + _ROUNDING) - _ROUNDING, -_LARGEST), _LARGEST)
        tl.store(codes + row + begin + at, value.to(tl.int8), mask=inside)


@triton.jit
def _scale_block(sums, row_scale, scale, bias, out, count, columns, has_bias):
    at = tl.program_id(0).to(tl.int64) * _BLOCK + tl.arange(0, _BLOCK)
    inside = at < count
    column = at % columns
    unit = tl.load(row_scale + at // columns, mask=inside, other=0.0) * tl.load(scale + column, mask=inside, other=0.0)
    value = tl.load(sums + at, mask=inside, other=0).to(tl.float32) * unit
    value += tl.load(bias + column, mask=at < count * has_bias, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


_quantize, _scale = Kernel(_quantize_row), Kernel(_scale_block)
