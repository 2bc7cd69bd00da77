"""Integers of fewer than 8 bits to the type that is computed in, in one launch: multiplied in float32, rounded once."""

# Triton takes annotations for types of its own.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..grids.group_scales import GROUP as COLUMNS_OF_A_GROUP
from .launch import Kernel, is_aligned

_BLOCK = tl.constexpr(512)
_GROUP = tl.constexpr(COLUMNS_OF_A_GROUP)


def dequantize(
    packed: torch.Tensor, scale: torch.Tensor, bits: int, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """W = code * scale of its group, in ``shape``.

    Args:
        packed: uint8 [C_out, bytes of a row], as ``formats/packing.py`` lays codes out, contiguous.
        scale: float16 [C_out, groups], contiguous.
    """
    out = torch.empty(shape, dtype=dtype, device=packed.device)
    if out.numel():
        columns = out.numel() // shape[0]
        blocks = triton.cdiv(columns, _BLOCK.value)
        numbers = (columns, blocks, packed.shape[1], scale.shape[1], bits)
        # Triton compiles anew for integers that are 1 or multiples of 16.
        kind = (dtype, packed.device, is_aligned(packed, scale), *((n == 1, n % 16 == 0) for n in numbers))
        _dequantize.launch(shape[0] * blocks, kind, packed, scale, out, *numbers)
    return out


@triton.jit
def _dequantize_block(packed, scale, out, columns, blocks, row_bytes, groups, bits):
    # A program has a part of one row: numbers of columns are divided, and those by constants alone.
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * _BLOCK + tl.arange(0, _BLOCK)
    inside = column < columns
    begin = row * row_bytes
    # Planes of 4, 2 and 1 bits, of which a code of so many bits has those that its number is made of. The others end at
    # column 0: not every version of Triton's interpreter joins a mask of a block and a number.
    fours, twos, ones = (bits >> 2) & 1, (bits >> 1) & 1, bits & 1
    second = fours * ((columns + 1) // 2)
    third = second + twos * ((columns + 3) // 4)
    low = tl.load(packed + begin + column // 2, mask=column < columns * fours, other=0).to(tl.int32)
    middle = tl.load(packed + begin + second + column // 4, mask=column < columns * twos, other=0).to(tl.int32)
    high = tl.load(packed + begin + third + column // 8, mask=column < columns * ones, other=0).to(tl.int32)
    value = (low >> (4 * (column % 2))) & 15
    value |= ((middle >> (2 * (column % 4))) & 3) << (4 * fours)
    value |= ((high >> (column % 8)) & 1) << (4 * fours + 2 * twos)
    code = (value - (1 << (bits - 1))).to(tl.float32)
    unit = tl.load(scale + row * groups + column // _GROUP, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, (code * unit).to(out.dtype.element_ty), mask=inside)


_dequantize = Kernel(_dequantize_block)
