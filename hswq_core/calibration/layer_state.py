"""What the monitor knows of one layer during a run."""

from __future__ import annotations

from typing import Any

import torch

from .accumulators.base import Accumulator
from .conv_patches import ConvWindow


class LayerState:
    """One layer of the model in one run.

    Attributes:
        spatial: over how many dimensions it is a convolution; 0 for Linear.
        window: of a convolution over images whose patches are known, else ``None``.
        leader: the layer that measures the input for this one, often itself.
        called: whether it was called in the present call of the model.
        calls, input_rows, outputs: how often it was called, and the rows and output elements seen so far.
    """

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        weight: Any = module.weight
        self.name = name
        self.spatial = weight.dim() - 2
        self.shape = tuple(weight.shape)
        self.channels = self.shape[1] * getattr(module, "groups", 1)
        self.window = ConvWindow.of(module) if self.spatial else None
        self.device: torch.device | None = None
        self.sums: Accumulator | None = None
        self.leader = self
        self.called = False
        self.calls = 0
        self.input_rows = 0
        self.outputs = 0

    def can_lead(self, other: LayerState) -> bool:
        """Whether what this layer measures of an input is what the other would."""
        return self.window == other.window and self.spatial == other.spatial and self.device == other.device


def count_positions(tensor: torch.Tensor, channel: int) -> int:
    """How many vectors of channels a tensor holds: rows of an input, or positions of an output."""
    return tensor.numel() // tensor.shape[channel] if tensor.numel() else 0
