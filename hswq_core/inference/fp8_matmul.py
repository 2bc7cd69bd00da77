"""A Linear layer multiplied in FP8 on hardware that can: faster, and less exact, since the input is rounded, too."""

from __future__ import annotations

import math
from itertools import product
from types import ModuleType

import torch

from ..backend import COMPUTED_IN, Operation, register
from ..grids import E4M3
from ..grids.grid import SIXTEEN_BITS

_LEAST_SCALE = 1e-12  # a row of zeros must not divide by zero
_ALIGNMENT = 16  # what the FP8 kernels ask of a weight's two dimensions


def fits_fp8_matmul(codes: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether a weight can be multiplied as it is: ``float8_e4m3fn`` [C_out, C_in], one scale for all of it."""
    return (
        codes.dtype == E4M3.dtype
        and codes.dim() == 2
        and scale.numel() == 1
        and not any(size % _ALIGNMENT for size in codes.shape)
    )


def fp8_linear(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x @ (codes * scale).T + bias with both factors in FP8, accumulated in float32.

    Args:
        x: [..., C_in], float; scaled by its own largest magnitude, so that no value is clipped.
        codes, scale: a weight for which ``fits_fp8_matmul``.
        bias: [C_out].

    Returns: [..., C_out] in x's type.
    """
    rows = x.reshape(-1, x.shape[-1])
    kernel = QUANTIZE_INPUT.kernel(rows.device)
    if kernel is None:
        quantized, input_scale = _quantize_by_torch(rows)
    else:
        quantized, input_scale = kernel.quantize(rows.contiguous(), _LEAST_SCALE)
    # torch has no public name for it yet.
    multiply = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage]
    scales = {"scale_a": input_scale.reshape(()), "scale_b": scale.reshape(())}
    # In the same launch where the product takes it: of 16 bits, and of the result's type.
    within = bias if bias is not None and bias.dtype == x.dtype and x.dtype in SIXTEEN_BITS else None
    out = multiply(quantized, codes.t(), **scales, bias=within, out_dtype=x.dtype)
    out = out if bias is None or bias is within else out + bias
    return out.reshape(*x.shape[:-1], codes.shape[0])


def _quantize_by_torch(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scale, without reading anything back from the device."""
    scale = (rows.abs().amax().float() / E4M3.largest).clamp(min=_LEAST_SCALE)
    # Divided in float32: in FP16 a small scale would lose its digits, or become zero.
    return (rows.float() / scale).to(E4M3.dtype), scale


def _agrees(kernel: ModuleType, device: torch.device) -> bool:
    points = torch.arange(256, dtype=torch.uint8, device=device).view(E4M3.dtype).float()
    points = points[points.isfinite()]
    # Inputs of one block and of several, a multiple of 16 and not. They are points of the grid, the largest among them.
    for dtype, shape, begin in product(COMPUTED_IN, ((4, 24), (70, 48), (3, 7), (1, 5000)), (0, 1)):
        count = begin + math.prod(shape)
        numbers = points.repeat(-(-count // len(points)))[:count] / 64
        numbers[-1] = E4M3.largest / 64
        rows = numbers.to(dtype)[begin:].view(shape)
        (codes, scale), (expected, expected_scale) = kernel.quantize(rows, _LEAST_SCALE), _quantize_by_torch(rows)
        same_scale = torch.allclose(scale.reshape(()), expected_scale)
        found, wanted = codes.float() * scale, expected.float() * expected_scale
        if not same_scale or not torch.allclose(found, wanted, rtol=0.13, atol=1e-3):
            return False
    return True


QUANTIZE_INPUT = register(Operation("FP8 multiplication", "e4m3", _agrees))
