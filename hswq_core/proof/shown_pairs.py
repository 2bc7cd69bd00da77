"""The pairs of a proof as one batch of images, filled row by row: they are never in memory twice."""

from __future__ import annotations

import torch

MOST_BYTES = 2 << 30
LEAST_PAIRS = 4
"""So many are shown in the page's image, whatever they take."""


class ShownPairs:
    """Args:
    pairs: how many there will be.
    most: bytes that they may take; the first pairs are kept, as many as fit.
    """

    def __init__(self, pairs: int, most: int = MOST_BYTES) -> None:
        self._pairs, self._most, self._added = pairs, most, 0
        self._images = torch.empty(0)

    def add(self, row: torch.Tensor) -> None:
        """Args: row: [frames, H, W, 3], of one shape for all pairs."""
        if not self._added:
            fitting = max(LEAST_PAIRS, self._most // max(row.nbytes, 1))
            self._images = row.new_empty((min(self._pairs, fitting) * len(row), *row.shape[1:]))
        begin = self._added * len(row)
        if begin < len(self._images):
            self._images[begin : begin + len(row)] = row
        self._added += 1

    @property
    def images(self) -> torch.Tensor:
        """[pairs * frames, H, W, 3]."""
        return self._images
