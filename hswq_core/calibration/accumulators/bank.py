"""The running sums of all layers, in a few long tensors on the model's device.

A call of a layer writes its sums into the layer's part of these tensors. When the model's call ends, one addition
folds all parts of all layers into the totals, so a layer costs as few kernels as its reductions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...sums import WideSum
from ..conv_patches import ConvWindow
from .base import Accumulator
from .cpu import CpuSums, Scratch
from .torch import TorchSums
from .triton import LAYER_SUMS, TritonSums


class SumBank:
    """Sums of |x|, x and x^2 per input channel, and of y and y^2, for every layer.

    Args:
        channels: input channels by layer.
        device: where the layers run.
    """

    def __init__(self, channels: Mapping[str, int], device: torch.device) -> None:
        total, self._spans = 0, {}
        for name, count in channels.items():
            self._spans[name] = slice(total, total + count)
            total += count
        self._row = {name: row for row, name in enumerate(channels)}
        self._kernel = LAYER_SUMS.kernel(device)
        self._scratch = Scratch() if device.type == "cpu" else None
        # Programs of one launch add to the same sum in any order, which only float64 does not show.
        written = torch.float32 if self._kernel is None else torch.float64
        self._input = torch.zeros(3, total, dtype=written, device=device)
        self._output = torch.zeros(2, len(channels), dtype=written, device=device)
        self._input_total = WideSum((3, total), device)
        self._output_total = WideSum((2, len(channels)), device)

    def of(self, name: str, window: ConvWindow | None) -> Accumulator:
        """The running sums of one layer, with its window if it is a convolution.

        Call this once for each layer: it takes as long as a small sum.
        """
        if self._kernel is not None:
            return TritonSums(self._kernel, self._input, self._output, self._spans[name].start, self._row[name], window)
        inputs, outputs = self._input[:, self._spans[name]], self._output[:, self._row[name]]
        return TorchSums(inputs, outputs) if self._scratch is None else CpuSums(inputs, outputs, self._scratch)

    def copy_history(self, source: str, target: str) -> None:
        """Copy the input sums of one layer, as of the last fold, to another."""
        self._input_total.copy(self._spans[source], self._spans[target])

    def fold(self) -> None:
        """Add what was written since the last fold to the totals."""
        holds_norms = self._kernel is None and self._scratch is None
        for new, total in ((self._input, self._input_total), (self._output, self._output_total)):
            if holds_norms:
                new[-1].square_()
            total.add(new)
            new.zero_()

    def totals(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Input sums [3, C_in] and output sums [2] by layer, float64 on the CPU: the device is read here alone."""
        inputs, outputs = self._input_total.double(), self._output_total.double()
        return (
            {name: inputs[:, span].clone() for name, span in self._spans.items()},
            {name: outputs[:, row].clone() for name, row in self._row.items()},
        )
