"""Whether Triton's kernel can be trusted on a GPU: it is tried before the first run, on a few small tensors."""

from __future__ import annotations

import math

import torch

from ..kernels.launch import tried_once
from .fused import FusedSums
from .rows import Draw, Positions, Window

_WINDOW = Window((3, 3), (2, 1), (1, 1), (1, 1))
# Shapes of input and output, where their channels are, and the window of a convolution.
_CALLS = (
    ((2, 7, 9, 300), (2, 3, 5, 300), 1, _WINDOW),
    ((2, 72, 9, 8), (2, 8, 5, 8), 1, _WINDOW),
    ((2, 70, 72), (2, 70, 11), 2, None),
    ((2, 70, 13), (2, 70, 16), 2, None),
)


@tried_once("calibrating")
def kernel_agrees_with_torch(device: torch.device) -> bool:
    """Whether it measures on this device what torch does, in every type that models compute in."""
    return all(_agrees(device, dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32))


def _agrees(device: torch.device, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    for input_shape, output_shape, channel, window in _CALLS:
        x, y = (torch.randn(s, generator=generator).add_(0.5).to(device, dtype) for s in (input_shape, output_shape))
        channels, seen = input_shape[channel], y.numel() // y.shape[channel]
        rows = torch.zeros(2, 20, channels * math.prod(window.kernel if window else ()), device=device).half()
        # 17 rows into places from the third on; positions of the same seed are the same.
        fused, plain = (Draw(Positions(0), window, y.shape[-2:], seen, 17, 2, part) for part in rows)
        input_sums = torch.zeros(3, channels + 9, dtype=torch.float64, device=device)
        output_sums = torch.zeros(2, 3, dtype=torch.float64, device=device)
        FusedSums(input_sums, output_sums, 5, 1, window).add(x, channel, y, fused)
        plain.take(x)
        expected_inputs, expected_outputs = torch.zeros_like(input_sums), torch.zeros_like(output_sums)
        wide, over = x.double(), [d for d in range(x.dim()) if d != channel]
        for place, values in enumerate((wide.abs(), wide, wide.square())):
            expected_inputs[place, 5 : 5 + channels] = values.sum(over)
        for place, values in enumerate((y.double(), y.double().square())):
            expected_outputs[place, 1] = values.sum()
        pairs = ((input_sums, expected_inputs), (output_sums, expected_outputs), (fused.rows, plain.rows))
        if not all(torch.allclose(found, expected, rtol=1e-4, atol=1e-3) for found, expected in pairs):
            return False
    return True
