"""Codes to weights on a CPU: in blocks, so that what is between codes and weights stays in the cache.

torch converts FP8 number by number, and multiplies integers with floats so, too. By steps that it has vector
instructions for, it takes a tenth of the time.
"""

from __future__ import annotations

import torch

from ..grids import E4M3

_BLOCK = 1 << 18
_NAN = 0xFF
"""Of e4m3, with the sign set."""
_UNIT = 256.0


def dequantize_in_blocks(codes: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """codes * scale in ``out``, multiplied in float32 and rounded once.

    Args:
        codes: [C_out, ...], contiguous, an 8-bit type.
        scale: float32, one number or one for each output channel.
        out: contiguous, of the shape of ``codes``.
    """
    rows, found = codes.reshape(len(codes), -1), out.view(len(codes), -1)
    each = max(1, _BLOCK // max(1, rows.shape[1]))
    scales = scale.reshape(-1, 1)
    for begin in range(0, len(rows), each):
        part = slice(begin, begin + each)
        of_part = scales[part] if len(scales) > 1 else scales
        numbers, unit = _numbers(rows[part])
        block = found[part] if out.dtype == torch.float32 else torch.empty(numbers.shape)
        block.copy_(numbers).mul_(of_part if unit == 1 else of_part * unit)
        if out.dtype != torch.float32:
            found[part] = block
    return out


def _numbers(codes: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What codes stand for, as a type that converts to float32 fast, and what to multiply it with."""
    if codes.dtype != E4M3.dtype or bool((codes.view(torch.uint8) | 0x80).amax() == _NAN):
        return codes, 1.0
    # The bits of an e4m3 number, shifted, are those of an FP16 number 256 times smaller, subnormal ones included.
    bits = codes.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000)
    return bits.view(torch.float16), _UNIT
