"""Layers that receive the same tensor (to_q, to_k, to_v) measure it once, under the first layer's name.

If their inputs ever differ, what was measured is copied and each layer measures its own. The cases:

- *join*: at a layer's first call, the tensor is the one that the layer before it measured.
- *follow*: at later calls it is so again, and nothing is measured.
- *separate*: the tensor is another one, or one of the two layers was not called in a call of the model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch

from .layer_state import LayerState


class SharedInputs:
    """Decides which layer measures the input of which.

    Args:
        copy_measured: called with leader and follower before they separate: the follower gets the sums and rows that
            the leader had when the present call of the model began.
    """

    def __init__(self, copy_measured: Callable[[LayerState, LayerState], None]) -> None:
        self._copy_measured = copy_measured
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
        if layer.leader is not layer:
            self._copy_measured(layer.leader, layer)
            layer.leader = layer

    def end_call(self, layers: Iterable[LayerState]) -> None:
        """A call of the model is over. If only one of leader and follower was called, the follower separates."""
        for layer in layers:
            if layer.called != layer.leader.called:
                self.separate(layer)

    def forget(self) -> None:
        """The run is over: hold no reference to a tensor any longer."""
        self._last = None
