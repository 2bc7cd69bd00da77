"""The interface of accumulators, which add each call of a layer to the layer's running sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch

from ..row_sample import RowSample


class Accumulator(Protocol):
    """The running sums of one layer."""

    def add(self, x: torch.Tensor | None, channel: int, y: torch.Tensor, sample: RowSample | None) -> None:
        """Measure one call.

        Args:
            x: the input, summed over all but its channel dimension; ``None`` where another layer measures it.
            y: the output, summed over everything.
            sample: rows to take from the input.
        """
        ...


class SeparateSums(ABC):
    """Input, rows and output one after the other, by torch's operations.

    Args:
        input_sums: float32 [3, C].
        output_sums: float32 [2].
    """

    def __init__(self, input_sums: torch.Tensor, output_sums: torch.Tensor) -> None:
        # Views are made once, as they cost as much as a small sum.
        self.input_sums, self.output_sums = input_sums, output_sums.unbind()

    def add(self, x: torch.Tensor | None, channel: int, y: torch.Tensor, sample: RowSample | None) -> None:
        """As ``Accumulator.add``."""
        if x is not None:
            if x.numel():
                self.add_input(x, channel)
            if sample is not None:
                sample.take(x)
        self.add_output(y)

    @abstractmethod
    def add_input(self, x: torch.Tensor, channel: int) -> None:
        """Sum x over all dimensions but ``channel``."""

    @abstractmethod
    def add_output(self, y: torch.Tensor) -> None:
        """Sum y over everything."""
