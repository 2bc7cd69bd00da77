"""Packed codes of fewer than 8 bits to the type that is computed in: multiplied in float32, rounded once."""

from __future__ import annotations

import math
from itertools import product
from types import ModuleType

import torch

from ..backend import COMPUTED_IN, Operation, register
from ..formats.nvfp4 import unpack_floats
from ..formats.packing import pack, unpack
from ..grids.group_scales import BLOCK, GROUP, groups_of, scales_of_columns


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
    kernel = DEQUANTIZE_PACKED.kernel(packed.device) if _fits_kernel(packed, scale) else None
    return (kernel.dequantize if kernel else _by_torch)(packed, scale, bits, shape, dtype)


def _fits_kernel(packed: torch.Tensor, scale: torch.Tensor) -> bool:
    return packed.is_contiguous() and scale.is_contiguous() and scale.device == packed.device


def _by_torch(
    packed: torch.Tensor, scale: torch.Tensor, bits: int, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    columns = math.prod(shape[1:])
    codes = unpack(packed, bits, columns)
    if columns % GROUP:
        return scales_of_columns(scale, columns).mul_(codes).reshape(shape).to(dtype).contiguous()
    groups, scales = codes.unflatten(1, (-1, GROUP)), scale.float()[:, :, None]
    if torch.compiler.is_compiling():
        return (groups * scales).reshape(shape).to(dtype)
    # One launch, in float32, rounded once.
    weight = torch.empty(shape, dtype=dtype, device=packed.device)
    torch.mul(groups, scales, out=weight.view(groups.shape))
    return weight


# Linear layers and convolutions; rows of whole bytes and groups, and not.
_SHAPES = ((24, 128), (7, 90), (16, 8, 3, 3), (5, 4, 3, 3), (3, 1))


def _agrees(kernel: ModuleType, device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    for dtype, shape, bits, begin in product(COMPUTED_IN, _SHAPES, (2, 3, 4, 5, 6), (0, 1)):
        rows, columns = shape[0], math.prod(shape[1:])
        most = 2 ** (bits - 1) - 1
        codes = torch.randint(-most, most + 1, (rows, columns), dtype=torch.int8, generator=generator)
        stored, groups = pack(codes, bits), groups_of(columns)
        moved = torch.empty(begin + stored.numel(), dtype=torch.uint8, device=device)  # from an odd address, too
        packed = moved[begin:].view(stored.shape).copy_(stored)
        scale = torch.rand(rows, groups, generator=generator).add_(0.01).half().to(device)
        found, expected = (each(packed, scale, bits, shape, dtype) for each in (kernel.dequantize, _by_torch))
        # Some compilers do not round to BF16's nearest.
        close = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0
        if found.dtype != dtype or not torch.allclose(found, expected, rtol=close, atol=0):
            return False
    return True


DEQUANTIZE_PACKED = register(Operation("expanding fewer than 8 bits", "packed", _agrees))
