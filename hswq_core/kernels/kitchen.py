"""comfy-kitchen's kernels, which recent ComfyUI brings along for Linux and Windows, behind our own signatures.

What they leave open is settled here: they write whole vectors, so odd sizes are torch's, and they take what is not
finite for a number.
"""

from __future__ import annotations

import comfy_kitchen  # pyright: ignore[reportMissingImports]
import torch

from .launch import is_aligned

_VECTOR = 16
_DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def dequantize(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """W = codes * scale in ``dtype``, multiplied in float32 and rounded once.

    Args:
        codes: ``float8_e4m3fn`` with one scale, or int8 with one scale or one for each output channel; contiguous.
        scale: float32.
    """
    if codes.numel() % _VECTOR or not is_aligned(codes):
        return (codes.float() * scale).to(dtype)
    if codes.dtype != torch.int8:
        return comfy_kitchen.dequantize_per_tensor_fp8(codes.flatten(), scale.reshape(1), dtype).view(codes.shape)
    rows = codes.reshape(len(codes), -1)
    multiply = torch.ops.comfy_kitchen.dequantize_int8_simple_dtype
    return multiply(rows, scale.reshape(-1, 1), _DTYPE_CODES[dtype]).view(codes.shape)


def int8_linear(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, group: int
) -> torch.Tensor:
    """x @ (codes * scale).T + bias by integers, as ``hswq_core.inference.int8_linear`` has it.

    An output row of an input row that is not finite has NaN at its beginning, from where every later layer takes it.

    Args: x: [M, C_in].
    """
    out = comfy_kitchen.int8_linear(
        x, codes, scale.reshape(-1), bias, out_dtype=x.dtype, convrot=group > 1, convrot_groupsize=max(group, 4)
    )
    low, high = torch.aminmax(x, dim=1, keepdim=True)
    out[:, :1].addcmul_(low, high, value=0)  # NaN and infinities times zero are NaN
    return out
