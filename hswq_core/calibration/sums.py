"""The running sums of all layers, in a few long tensors on the model's device.

A call of a layer writes its sums straight into the layer's places in float32. When the model's call ends, one
addition folds all places of all layers into float64, so a layer costs as few kernels as its reductions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .blocks import Blocks


class SumBank:
    """Sums of |x|, x and x^2 per input channel, and of y and y^2, for every layer.

    Args:
        channels: input channels by layer.
        device: where the layers run.
    """

    def __init__(self, channels: Mapping[str, int], device: torch.device) -> None:
        # MPS has no float64; elsewhere it makes sums over any number of calls exact to seven digits and more.
        wide = torch.float32 if device.type == "mps" else torch.float64
        total, self._spans = 0, {}
        for name, count in channels.items():
            self._spans[name] = slice(total, total + count)
            total += count
        self._row = {name: row for row, name in enumerate(channels)}
        self._input = torch.zeros(3, total, device=device)
        self._output = torch.zeros(2, len(channels), device=device)
        # On a CPU the last row holds squares, elsewhere norms, which are squared when they are folded.
        self._blocks = Blocks() if device.type == "cpu" else None
        # Views are made once: on a small model, making them costs as much as the sums.
        self._places = {name: self._input[:, span] for name, span in self._spans.items()}
        self._results = {name: self._output[:, row] for name, row in self._row.items()}
        self._input_total = torch.zeros(3, total, dtype=wide, device=device)
        self._output_total = torch.zeros(2, len(channels), dtype=wide, device=device)

    def add_input(self, name: str, x: torch.Tensor, channel: int) -> None:
        """Sum one call's input over all but its channel dimension."""
        places = self._places[name]
        if self._blocks is not None:
            self._blocks.add_input(x, channel, places)
            return
        absolute, plain, norm = places
        over = [d for d in range(x.dim()) if d != channel]
        if not over:  # a single vector: every channel was seen once
            for sums, value in ((absolute, x.abs()), (plain, x), (norm, x.abs())):
                sums.copy_(value)
            return
        # The norms reduce in float32 without writing |x| or x^2 to memory first.
        torch.linalg.vector_norm(x, 1, over, dtype=torch.float32, out=absolute)
        torch.sum(x, over, dtype=torch.float32, out=plain)
        torch.linalg.vector_norm(x, 2, over, dtype=torch.float32, out=norm)

    def add_output(self, name: str, y: torch.Tensor) -> None:
        results = self._results[name]
        if self._blocks is not None:
            self._blocks.add_output(y, results)
            return
        plain, norm = results
        torch.sum(y, tuple(range(y.dim())), dtype=torch.float32, out=plain)
        torch.linalg.vector_norm(y, 2, dtype=torch.float32, out=norm)

    def copy_history(self, source: str, target: str) -> None:
        """Give a layer the input sums that another has had until the last fold."""
        self._input_total[:, self._spans[target]] = self._input_total[:, self._spans[source]]

    def fold(self) -> None:
        """Add what was written since the last fold to the totals."""
        for new, total in ((self._input, self._input_total), (self._output, self._output_total)):
            if self._blocks is None:
                new[-1].square_()
            total += new
            new.zero_()

    def totals(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Input sums [3, C_in] and output sums [2] by layer, float64 on the CPU: the device is read here alone."""
        inputs, outputs = self._input_total.cpu().double(), self._output_total.cpu().double()
        return (
            {name: inputs[:, span].clone() for name, span in self._spans.items()},
            {name: outputs[:, row].clone() for name, row in self._row.items()},
        )
