"""Rotating the inputs of a Linear layer in groups, so that outliers spread over a group's channels.

ComfyUI's ``int8_tensorwise`` multiplies integers: it rounds each row of a layer's input to 8 bits by the row's largest
value, and an outlier costs all other channels their precision. With ``convrot`` in ``L.comfy_quant`` it multiplies
groups of channels with an orthonormal matrix before that, for which the weights were rotated when they were written:
x H (W H)^T = x W^T, as H H^T = 1. H is the regular Hadamard matrix, the Kronecker power of the one of order 4 whose
every row adds up to 2. It is symmetric, so that rotating twice returns the input.
"""

from __future__ import annotations

from functools import cache

import torch

from ..grids import INT8

NONE = 1
GROUPS = (256, 64, 16)
MIN_GAIN = 0.1
"""The share of the error that a rotation must remove, since it costs time in every step."""
_ROWS = 256


@cache
def _hadamard(size: int, device: torch.device) -> torch.Tensor:
    """Orthonormal and symmetric, float32 [size, size]; size is a power of 4."""
    with torch.inference_mode(False):  # gradients may come to need it
        return _built(size).to(device)


def _built(size: int) -> torch.Tensor:
    four = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = four
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return matrix / size**0.5


def rotated(matrix: torch.Tensor, group: int) -> torch.Tensor:
    """A matrix [N, K] whose columns are rotated in groups, float32. Applying it twice returns the input.

    Args: group: columns to a group, a power of 4 that divides K; 1 leaves a tensor of any shape as it is.
    """
    if group == NONE:
        return matrix.float()
    turn = _hadamard(group, matrix.device)
    return (matrix.float().reshape(len(matrix), -1, group) @ turn).reshape(matrix.shape)


def best_group(weight: torch.Tensor, rows: torch.Tensor) -> int:
    """The group with which ComfyUI's integer product is closest to the layer's output on sampled rows, or 1.

    Args:
        weight: [C_out, C_in].
        rows: [R, C_in] sampled inputs.
    """
    x = rows[:: max(1, len(rows) // _ROWS)].to(weight.device).float()
    exact = x @ weight.float().t()

    def error(group: int) -> float:
        codes, inputs = (rounded_by_row(rotated(matrix, group)) for matrix in (weight, x))
        return float((inputs @ codes.t() - exact).square().sum())

    found = {group: error(group) for group in (NONE, *GROUPS) if weight.shape[1] % group == 0}
    best = min(found, key=lambda group: found[group])
    return best if found[best] < (1 - MIN_GAIN) * found[NONE] else NONE


def rounded_by_row(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with each row rounded to integers by its largest value."""
    scale = matrix.abs().amax(1, keepdim=True) / INT8.largest
    scale = torch.where(scale > 0, scale, 1)
    return INT8.dequantize(INT8.quantize(matrix, scale), scale)
