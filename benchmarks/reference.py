"""The published reference's search for amax, written from its description, to compare with.

Definition: a histogram of |W| in 4,096 equal bins up to max|W|, weighted by importance; 200 candidates from
0.5 to 1.0 x max, each tried on the bins' centres, rounded to the nearest of the FP8 grid's values by
comparing with all of them; then three times again 200 candidates, in half the range around the best.
"""

from __future__ import annotations

import torch

from hswq_core.grids import E4M3

BINS, CANDIDATES, REFINEMENTS = 4096, 200, 3


def reference_amax(weight: torch.Tensor, importance: torch.Tensor) -> float:
    """The reference's amax of a layer for V2."""
    magnitude = weight.float().abs()
    largest = float(magnitude.max())
    shape = (1, -1, *[1] * (weight.dim() - 2))
    each = importance.float().view(shape).expand_as(magnitude).double()
    index = (magnitude / (largest / BINS)).long().clamp(0, BINS - 1)
    histogram = torch.zeros(BINS, dtype=torch.float64).scatter_add_(0, index.flatten(), each.flatten())
    centres = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (largest / BINS)
    grid = E4M3.magnitudes()
    low, high = 0.5 * largest, largest
    best, least = largest, float("inf")
    for _ in range(REFINEMENTS + 1):
        for amax in torch.linspace(low, high, CANDIDATES).tolist():
            scaled = (centres.float() * (E4M3.largest / amax)).clamp(max=E4M3.largest)
            nearest = grid[(scaled[:, None] - grid[None, :]).abs().argmin(dim=1)]
            error = float((histogram * (nearest.double() * (amax / E4M3.largest) - centres) ** 2).sum())
            if error < least:
                best, least = amax, error
        width = (high - low) / 4
        low, high = max(0.1 * largest, best - width), min(1.2 * largest, best + width)
    return best
