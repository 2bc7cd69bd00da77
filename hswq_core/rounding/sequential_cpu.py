"""Sequential rounding on a CPU, in numpy: a column is too short for what a call of torch costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ..grids import Grid

Floats = NDArray[np.float32]

_EXPONENT = np.int32(0x7F800000)
"""The bits of a float32 that are its power of two."""


def round_strips(
    grid: Grid,
    target: torch.Tensor,
    coupling: torch.Tensor,
    values: torch.Tensor | None = None,
    unit: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``sequential.round_rows``."""
    moved, passed_on = target.numpy(), np.ascontiguousarray(coupling.numpy().T)
    base = moved if values is None else values.numpy()
    steps = None if unit is None else unit.numpy()
    rounded, change = np.empty_like(moved), np.empty_like(moved)
    to_grid = _rounding_to(grid, moved.shape[1])
    for row, (wanted, found) in enumerate(zip(moved, rounded, strict=True)):
        if row:
            # No matrix product: those of numpy's libraries would start threads of their own.
            wanted += np.einsum("j,jc->c", passed_on[row, :row], change[:row])
        if steps is None:
            found[:] = wanted
            to_grid(found)
        else:
            np.divide(wanted, steps[row], out=found)
            to_grid(found)
            found *= steps[row]
        np.subtract(base[row], found, out=change[row])
    return torch.from_numpy(rounded), torch.from_numpy(change)


def _rounding_to(grid: Grid, length: int) -> Callable[[Floats], None]:
    """What ``grid.nearest_values`` does, in place, to as many values as ``length`` says."""
    largest = np.float32(grid.largest)
    least, fraction = np.float32(grid.least_normal), np.float32(2.0**-grid.mantissa_bits)
    step = np.empty(length, np.float32)
    bits = step.view(np.int32)
    steps_differ = grid.is_self_similar  # those of integers are one

    def to_grid(values: Floats) -> None:
        np.minimum(values, largest, out=values)
        np.maximum(values, -largest, out=values)
        if steps_differ:
            np.bitwise_and(values.view(np.int32), _EXPONENT, out=bits)
            np.maximum(step, least, out=step)
            np.multiply(step, fraction, out=step)
            np.divide(values, step, out=values)  # by a power of two: exact
        np.rint(values, out=values)
        if steps_differ:
            np.multiply(values, step, out=values)

    return to_grid
