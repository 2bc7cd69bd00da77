"""Layers that receive the same tensor (to_q, to_k, to_v) measure it once, under the first layer's name.

If their inputs ever differ, the sums are copied and each layer goes on alone. The cases:

- *join*: at a layer's first call, the tensor is the one that the layer before it measured.
- *follow*: at later calls it is so again, and nothing is measured.
- *separate*: the tensor is another one, or one of the two layers was not called in a call of the model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .accumulators.base import Accumulator
from .conv_patches import ConvWindow
from .reservoir import Reservoir


class LayerState:
    """What is known of one layer during a run.

    Attributes:
        leader: the layer that measures the input for this one, often itself.
        called: whether it was called in the present call of the model.
        calls, input_rows, outputs: how often it was called, and the rows and output elements seen so far.
    """

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        weight: Any = module.weight
        self.name = name
        self.spatial = weight.dim() - 2
        """Over how many dimensions it is a convolution; none for Linear."""
        self.shape = tuple(weight.shape)
        self.channels = self.shape[1] * getattr(module, "groups", 1)
        self.window = ConvWindow.of(module) if self.spatial else None
        self.device: torch.device | None = None
        self.sums: Accumulator | None = None
        self.leader = self
        self.reservoir: Reservoir | None = None
        self.called = False
        self.calls = 0
        self.input_rows = 0
        self.outputs = 0

    def can_lead(self, other: LayerState) -> bool:
        """Whether what this layer measures of an input is what the other would."""
        return self.window == other.window and self.spatial == other.spatial and self.device == other.device


class SharedInputs:
    """Which layer measures the input of which.

    Args:
        copy_sums: gives a follower the input sums that its leader had when the present call of the model began.
    """

    def __init__(self, copy_sums: Callable[[LayerState, LayerState], None]) -> None:
        self._copy_sums = copy_sums
        self._last: tuple[weakref.ref[torch.Tensor], LayerState] | None = None

    def leader_of(self, layer: LayerState, x: torch.Tensor) -> LayerState:
        """The layer that measures ``x``, the input of this call of ``layer``."""
        last = self._last
        same = last is not None and last[0]() is x and last[1].can_lead(layer)
        found = last[1] if last is not None and same else layer
        if not layer.input_rows:  # join
            layer.leader = found
        elif layer.leader is not found:
            self.separate(layer)
        if layer.leader is layer:
            self._last = (weakref.ref(x), layer)
        return layer.leader

    def separate(self, layer: LayerState) -> None:
        """From now on the layer measures its own input; what it shared so far becomes its own."""
        leader = layer.leader
        if leader is layer:
            return
        self._copy_sums(leader, layer)
        # The leader may have been called already in this call of the model, with what is not this layer's input.
        layer.reservoir = layer.reservoir.fork(without_last=leader.called) if layer.reservoir else None
        layer.leader = layer

    def end_call(self, layers: Iterable[LayerState]) -> None:
        """A call of the model is over: followers whose leader was not called when they were go on alone."""
        for layer in layers:
            if layer.called != layer.leader.called:
                self.separate(layer)

    def forget(self) -> None:
        """The run is over: hold no tensor's address any longer."""
        self._last = None
