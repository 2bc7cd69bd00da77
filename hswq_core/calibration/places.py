"""The places of one layer in the running sums, and how a call of the layer is added to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch

from .rows import Draw


class LayerSums(Protocol):
    """The places of one layer."""

    def add(self, x: torch.Tensor | None, channel: int, y: torch.Tensor, draw: Draw | None) -> None:
        """Measure one call.

        Args:
            x: the input, summed over all but its channel dimension; ``None`` where another layer measures it.
            y: the output, summed over everything.
            draw: rows to take from the input.
        """
        ...


class SeparateSums(ABC):
    """Input, rows and output one after the other, by torch's operations.

    Args:
        places: of the input's sums, float32 [3, C].
        results: of the output's, float32 [2].
    """

    def __init__(self, places: torch.Tensor, results: torch.Tensor) -> None:
        # Views are made once, as they cost as much as a small sum.
        self.places, self.results = places, results.unbind()

    def add(self, x: torch.Tensor | None, channel: int, y: torch.Tensor, draw: Draw | None) -> None:
        """As ``LayerSums.add``."""
        if x is not None:
            if x.numel():
                self.add_input(x, channel)
            if draw is not None:
                draw.take(x)
        self.add_output(y)

    @abstractmethod
    def add_input(self, x: torch.Tensor, channel: int) -> None:
        """Sum x over all dimensions but ``channel``."""

    @abstractmethod
    def add_output(self, y: torch.Tensor) -> None:
        """Sum y over everything."""
