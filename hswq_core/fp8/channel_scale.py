"""A scale for every output channel (V2): each row of the weight is put where the grid suits it best.

e4m3 is self-similar under powers of two, so one octave above the largest magnitude holds all there is to choose from,
but for clipping, from which a row with a range of its own gains nothing.
"""

from __future__ import annotations

import torch

from .grid import FP8_MAX, dequantize, quantize

_STEPS = 16  # in the octave; a quarter of them has half the gain, and twice as many next to none
_BLOCK = 1 << 22


def search_channel_scales(weight: torch.Tensor, importance: torch.Tensor | None) -> tuple[torch.Tensor, float]:
    """The scale with the least importance-weighted squared error of each output channel, and the sum of these errors.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], finite.
        importance: [C_in]; ``None``, or all zeros, counts every weight once.

    Returns: float32 [C_out] on the CPU.
    """
    rows = weight.flatten(1)
    if importance is None or not importance.any():
        importance = torch.ones(weight.shape[1])
    each = importance.to(weight.device, torch.float32).repeat_interleave(rows.shape[1] // weight.shape[1])
    found, total = [], 0.0
    for block in rows.split(max(1, _BLOCK // rows.shape[1])):
        values = block.float()
        unit = values.abs().amax(1, keepdim=True) / FP8_MAX
        # A channel of zeros has no range; below float32's normal one a scale would lose its digits.
        unit[unit < torch.finfo(torch.float32).tiny] = 1.0
        best, scales = torch.full_like(unit[:, 0], float("inf")), unit[:, 0].clone()
        for step in range(_STEPS):
            scale = unit * 2.0 ** (step / _STEPS)
            error = (dequantize(quantize(values, scale), scale) - values).square_() @ each
            better = error < best
            best, scales = torch.where(better, error, best), torch.where(better, scale[:, 0], scales)
        found.append(scales)
        total += float(best.double().sum())
    return torch.cat(found).cpu(), total
