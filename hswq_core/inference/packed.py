"""Packed codes of fewer than 8 bits to the type that is computed in: multiplied in float32, rounded once."""

from __future__ import annotations

import math

import torch

from ..formats.nvfp4 import unpack_floats
from ..formats.packing import unpack
from ..grids.group_scales import BLOCK, GROUP, scales_of_columns


def dequantize_packed(
    packed: torch.Tensor,
    scale: torch.Tensor,
    bits: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    factor: float | None = None,
) -> torch.Tensor:
    """W = code * scale in ``dtype``, in ``shape``.

    Args:
        packed: uint8 [C_out, bytes of a row].
        scale: float16 [C_out, groups]; of NVFP4 E4M3 [C_out, blocks].
        factor: of NVFP4, what the scales are multiplied with; ``None`` for integers.
    """
    if factor is not None:
        scales = (scale.float() * factor)[:, :, None]
        return (unpack_floats(packed).unflatten(1, (-1, BLOCK)) * scales).flatten(1).to(dtype)
    columns = math.prod(shape[1:])
    codes = unpack(packed, bits, columns)
    if columns % GROUP:
        weight = scales_of_columns(scale, columns).mul_(codes)
    else:
        weight = codes.unflatten(1, (-1, GROUP)) * scale.float()[:, :, None]
    return weight.reshape(shape).to(dtype).contiguous()
