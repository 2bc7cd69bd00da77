"""NVFP4 as ComfyUI stores it: 4-bit codes two to a byte, and the scales of blocks in the order that its kernels read.

A code is a sign, 2 bits of exponent and 1 of mantissa. Of two columns the even one is in the high bits. Scales are
E4M3, [C_out, blocks] filled up with zeros to multiples of 128 and 4; of each tile of 128 x 4 the rows r, r + 32, r + 64
and r + 96 stand side by side (cuBLAS, 1D block scaling factors layout).
"""

from __future__ import annotations

import torch

_TO_HALF = 2.0**14
"""The bits of a code, shifted, are those of an FP16 number that is smaller by this, subnormal ones included."""
_ROWS, _BLOCKS, _QUARTER = 128, 4, 32


def pack_floats(codes: torch.Tensor) -> torch.Tensor:
    """Codes of the grid E2M1, [N, K] with an even K, as uint8 [N, K / 2]."""
    half = (codes.float() / _TO_HALF).half().view(torch.int16)
    bits = (((half >> 12) & 8) | ((half >> 9) & 7)).to(torch.uint8)
    return (bits[:, 0::2] << 4) | bits[:, 1::2]


def unpack_floats(packed: torch.Tensor) -> torch.Tensor:
    """The inverse of ``pack_floats``: float32 [N, K]."""
    bits = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(1).to(torch.int16)
    return (((bits & 8) << 12) | ((bits & 7) << 9)).view(torch.float16).float() * _TO_HALF


def swizzled(scales: torch.Tensor) -> torch.Tensor:
    """Scales [N, blocks] in the order and the size in which files have them."""
    rows, blocks = scales.shape
    filled = torch.nn.functional.pad(scales.view(torch.uint8), (0, -blocks % _BLOCKS, 0, -rows % _ROWS))
    tiles = filled.unflatten(1, (-1, _BLOCKS)).unflatten(0, (-1, _ROWS // _QUARTER, _QUARTER))
    return tiles.permute(0, 3, 2, 1, 4).reshape(filled.shape).view(scales.dtype)


def unswizzled(stored: torch.Tensor, rows: int, blocks: int) -> torch.Tensor:
    """The inverse: scales [rows, blocks] of what files have."""
    tiles = stored.view(torch.uint8).reshape(-1, stored.shape[1] // _BLOCKS, _QUARTER, _ROWS // _QUARTER, _BLOCKS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(stored.shape)[:rows, :blocks].contiguous().view(stored.dtype)


def swizzled_shape(rows: int, blocks: int) -> tuple[int, int]:
    """The shape in which files have so many scales."""
    return rows + -rows % _ROWS, blocks + -blocks % _BLOCKS
