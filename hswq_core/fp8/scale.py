"""The search for amax: the magnitude that becomes the largest FP8 code (V2), or the clip (V1).

The model card's rule: minimize the importance-weighted squared error of the weights on the true grid,
over candidates in [0.5, 1.0] x max. To those we add [1.0, 2.0] x max. e4m3 is a floating-point grid,
self-similar under powers of two, so these are the same steps once more without clipping anything; and
we add the scales that are powers of two, whose grid holds every point of the unscaled one. With them
V2's error is never above a plain cast's, which the card's range alone does not give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .grid import FP8_MAX, dequantize, quantize
from .histogram import Histogram

_STEPS = 48
_FINE = 17
_ROUNDS = 2


@dataclass(frozen=True)
class Search:
    """The best amax, its weighted mean squared error, and that of taking max|W| as it is."""

    amax: float
    error: float
    error_at_max: float


def search_amax(histogram: Histogram, *, scaled: bool) -> Search:
    """The amax with the least weighted mean squared error.

    Args:
        scaled: True for V2, where amax becomes code 448 through the scale amax / 448; False for V1,
            where there is no scale and amax only clips. A V1 clip below max|W| can never win (a value
            above it has no nearer code than its own rounding), so V1's answer is always max|W|.

    A layer of zeros gives amax 0 and error 0.
    """
    largest = histogram.amax
    if largest == 0.0:
        return Search(0.0, 0.0, 0.0)
    ratios = torch.linspace(1.0, 0.5, _STEPS + 1, dtype=torch.float64)
    if scaled:
        # The power of two whose scale puts 448 in [max, 2 max), and the one below.
        power = FP8_MAX * 2.0 ** math.ceil(math.log2(largest / FP8_MAX)) / largest
        ratios = torch.cat([ratios, ratios * 2, torch.tensor([power, power / 2], dtype=torch.float64)])
    candidates = ratios * largest
    errors = weighted_errors(histogram, candidates, scaled=scaled)
    best = int(errors.argmin())
    at_max, amax, error = float(errors[0]), float(candidates[best]), float(errors[best])
    if scaled:
        # Errors ripple with amax: refine around the two best dips, since the deeper one may lie beside a candidate.
        second = int(torch.where((candidates / amax - 1).abs() > 1.5 / _STEPS, errors, torch.inf).argmin())
        for start in (float(candidates[best]), float(candidates[second])):
            centre, reach = start, start / _STEPS
            for _ in range(_ROUNDS):
                fine = torch.linspace(centre - reach, centre + reach, _FINE, dtype=torch.float64)
                refined = weighted_errors(histogram, fine, scaled=True)
                lowest = int(refined.argmin())
                centre, reach = float(fine[lowest]), 2 * reach / (_FINE - 1)
                if float(refined[lowest]) < error:
                    amax, error = centre, float(refined[lowest])
    return Search(amax, error, at_max)


def weighted_errors(histogram: Histogram, candidates: torch.Tensor, *, scaled: bool) -> torch.Tensor:
    """Weighted mean squared error for each candidate amax: float64 [K], all candidates at once."""
    values = histogram.values[None, :]
    amax = candidates.float()[:, None]
    scale = amax / FP8_MAX if scaled else torch.ones_like(amax)
    # Scaled, amax is the code 448, where rounding saturates by itself; unscaled it must be clipped to.
    clipped = values if scaled else torch.minimum(values, amax)
    squared = (dequantize(quantize(clipped, scale), scale) - values).square_().double()
    return (squared @ histogram.weights) / histogram.weights.sum()


def scale_of(amax: float) -> torch.Tensor:
    """The stored inverse scale of V2: amax / 448 as float32 [1]; 1 for a layer of zeros."""
    scale = torch.tensor([amax / FP8_MAX], dtype=torch.float32)
    # Below float32's normal range the scale would lose precision or vanish; such a layer rounds to zero anyway.
    return scale if scale.item() >= torch.finfo(torch.float32).tiny else torch.ones(1)
