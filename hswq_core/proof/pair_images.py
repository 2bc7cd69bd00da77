"""The pairs of a proof as one batch of images, filled row by row: they are never in memory twice."""

from __future__ import annotations

import torch

MAX_BYTES = 2 << 30
MIN_PAIRS = 4
"""This many are kept however large they are, for the image beside the page."""


class PairImages:
    """Args:
    pairs: how many there will be.
    most: bytes that they may take; the first pairs are kept, as many as fit.
    """

    def __init__(self, pairs: int, most: int = MAX_BYTES) -> None:
        self._pairs, self._most, self._added = pairs, most, 0
        self._images = torch.empty(0)

    def add(self, row: torch.Tensor) -> None:
        """Args: row: [frames, H, W, 3], of one shape for all pairs."""
        if not self._added:
            fitting = max(MIN_PAIRS, self._most // max(row.nbytes, 1))
            self._images = row.new_empty((min(self._pairs, fitting) * len(row), *row.shape[1:]))
        begin = self._added * len(row)
        if begin < len(self._images):
            self._images[begin : begin + len(row)] = row
        self._added += 1

    @property
    def images(self) -> torch.Tensor:
        """[pairs * frames, H, W, 3]."""
        return self._images
