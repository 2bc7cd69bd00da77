"""Packed codes of fewer than 8 bits to the type that is computed in: multiplied in float32, rounded once."""

from __future__ import annotations

import math

import torch

from ..formats.packing import unpack
from ..grids.group_scales import GROUP, scales_of_columns


def dequantize_packed(
    packed: torch.Tensor, scale: torch.Tensor, bits: int, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """W = code * scale in ``dtype``, in ``shape``.

    Args:
        packed: uint8 [C_out, bytes of a row].
        scale: float16 [C_out, groups].
    """
    columns = math.prod(shape[1:])
    codes = unpack(packed, bits, columns)
    if columns % GROUP:
        return scales_of_columns(scale, columns).mul_(codes).reshape(shape).to(dtype)
    groups, scales = codes.unflatten(1, (-1, GROUP)), scale.float()[:, :, None]
    if torch.compiler.is_compiling():
        return (groups * scales).reshape(shape).to(dtype)
    # One launch, in float32, rounded once.
    weight = torch.empty(shape, dtype=dtype, device=packed.device)
    torch.mul(groups, scales, out=weight.view(groups.shape))
    return weight
