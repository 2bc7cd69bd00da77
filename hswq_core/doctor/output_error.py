"""How much of a layer's output a change of its weight changes."""

from __future__ import annotations

import math

import torch

from ..calibration.rows import all_finite, tensor_of
from ..calibration.statistics import LayerStatistics

_MOST_ROWS = 1024
_STRETCH = 1024


def output_error(change: torch.Tensor, weight: torch.Tensor, measured: LayerStatistics) -> float:
    """E|dW x|^2 / E|W x|^2: on sampled input rows where there are some, else as if channels were uncorrelated.

    Args:
        change, weight: [C_out, C_in, ...], float32.
    """
    if measured.has_rows_for(weight.shape) and measured.rows is not None:
        rows = tensor_of(measured.rows)
        rows = rows[:: -(-len(rows) // _MOST_ROWS)].float()
        if all_finite(rows):
            lost, whole = (energy(rows @ matrix.flatten(1).t()) for matrix in (change, weight))
            return lost / whole if whole else 0.0
    moment = measured.of_columns(measured.second_moment, weight.shape).float()
    columns = moment.reshape(-1, *[1] * (weight.dim() - 2)).expand(weight.shape[1:]).flatten()
    lost, whole = (energy(matrix.flatten(1) * columns.sqrt()) for matrix in (change, weight))
    return lost / whole if whole else 0.0


def energy(matrix: torch.Tensor) -> float:
    """The sum of squares: of short stretches in float32, which is many times as fast, and of these in float64."""
    flat = matrix.flatten()
    end = flat.numel() // _STRETCH * _STRETCH
    stretches = torch.linalg.vector_norm(flat[:end].view(-1, _STRETCH), dim=1, dtype=torch.float32)
    found = float(stretches.double().square().sum() + flat[end:].double().square().sum())
    # Numbers beyond 1e16, as with a scale that was inverted, have no square in float32.
    return found if math.isfinite(found) else float(torch.linalg.vector_norm(flat, dtype=torch.float64)) ** 2
