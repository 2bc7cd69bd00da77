"""How much of a layer's output a change of its weight changes."""

from __future__ import annotations

import torch

from ..calibration.rows import all_finite, tensor_of
from ..calibration.statistics import LayerStatistics

_MOST_ROWS = 1024


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
    """The sum of squares, added up in float64."""
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
