"""The search for amax: the magnitude that the largest code stands for.

The model card's rule: minimize the importance-weighted squared error of the weights on the true grid,
over candidates in [0.5, 1.0] x max. To those we add [1.0, 2.0] x max. A floating-point grid is
self-similar under powers of two, so these are the same steps once more without clipping anything; and
we add the scales that are powers of two, whose grid holds every point of the unscaled one. With them
V2's error is never above a plain cast's, which the card's range alone does not give.

A file without scales (V1) needs no search. Clipping below max|W| cannot help there: values under the clip
round the same, values above it move further away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .grid import Grid
from .histogram import Histogram

_STEPS = 160
_FINE = 25
_ROUNDS = 2
_DIPS = 3


@dataclass(frozen=True)
class Search:
    """The best amax and its weighted mean squared error."""

    amax: float
    error: float


def search_amax(histogram: Histogram, grid: Grid) -> Search:
    """The amax with the least weighted mean squared error, where the scale is amax / grid.largest.

    A layer of zeros gives amax 0 and error 0.
    """
    largest = histogram.amax
    if largest == 0.0:
        return Search(0.0, 0.0)
    ratios = torch.linspace(1.0, 0.5, _STEPS + 1, dtype=torch.float64)
    if grid.is_self_similar:
        # The power of two whose scale puts the largest code in [max, 2 max), and the one below.
        power = grid.largest * 2.0 ** math.ceil(math.log2(largest / grid.largest)) / largest
        ratios = torch.cat([ratios, ratios * 2, torch.tensor([power, power / 2], dtype=torch.float64)])
    moments = _Moments(histogram, grid)
    candidates = ratios * largest
    errors = moments.errors(candidates)
    # Errors ripple with amax: refine around the best dips, since the deepest may lie beside a candidate.
    reach = 0.5 * largest / _STEPS
    starts = []
    for _ in range(_DIPS):
        starts.append(candidates[int(errors.argmin())])
        errors = torch.where((candidates - starts[-1]).abs() > 3 * reach, errors, torch.inf)
    centres, offsets = torch.stack(starts), torch.linspace(-2, 2, _FINE, dtype=torch.float64)
    for _ in range(_ROUNDS):
        fine = centres[:, None] + reach * offsets
        errors, lowest = moments.errors(fine.flatten()).view_as(fine).min(1)
        centres = fine.gather(1, lowest[:, None])[:, 0]
        reach *= 4 / (_FINE - 1)
    # Every round's candidates contain the centre of the round before, so the last round's best is the best of all.
    return Search(float(centres[int(errors.argmin())]), float(errors.min()))


class _Moments:
    """Running sums of weight, weight * v and weight * v^2 over a histogram's ascending magnitudes v.

    Between two midpoints of the grid all magnitudes round to the same point p, so their error is
    sum w (p - v)^2 = p^2 S0 - 2 p S1 + S2 with three differences of running sums: one term for each point
    of the grid instead of one for each of tens of thousands of magnitudes.
    """

    def __init__(self, histogram: Histogram, grid: Grid) -> None:
        self._grid = grid
        self._values = histogram.values.double()
        powers = torch.stack([torch.ones_like(self._values), self._values, self._values.square()])
        self._sums = torch.nn.functional.pad((histogram.weights * powers).cumsum(1), (1, 0))

    def errors(self, candidates: torch.Tensor) -> torch.Tensor:
        """Weighted mean squared error for each candidate amax: float64 [K], all candidates at once."""
        points = self._grid.magnitudes().double()
        midpoints = (points[1:] + points[:-1]) / 2
        scale = (candidates / self._grid.largest).float().double()[:, None]  # as it is stored
        points, borders = points * scale, midpoints * scale
        inner = torch.searchsorted(self._values, borders.contiguous())
        ends = torch.nn.functional.pad(inner, (1, 0))
        ends = torch.nn.functional.pad(ends, (0, 1), value=len(self._values))
        count, first, second = self._sums[:, ends].diff(dim=-1)
        return (points.square() * count - 2 * points * first + second).sum(1).clamp_(min=0) / self._sums[0, -1]


def scale_of(amax: float, grid: Grid) -> torch.Tensor:
    """The stored scale, amax / grid.largest as float32 [1]; 1 for a layer of zeros."""
    scale = torch.tensor([amax / grid.largest], dtype=torch.float32)
    # Below float32's normal range the scale would lose precision or vanish; such a layer rounds to zero anyway.
    return scale if scale.item() >= torch.finfo(torch.float32).tiny else torch.ones(1)
