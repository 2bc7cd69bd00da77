"""The dual monitor: forward hooks that measure every Linear and Conv2d of a torch module tree.

Sums stay on the model's device and are never read inside a step, so a GPU is not made to wait. They are
turned into statistics once, when the run is over.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

from .inputs import InputRecorder
from .places import LayerSums
from .rows import Positions, Reservoir, Window
from .statistics import LayerStatistics, Statistics
from .sums import SumBank

_FULL = 0.9
"""A sample of this share of its size is one that later runs need not fill up."""


def quantizable_layers(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The layers HSWQ can quantize, with their module paths: Linear and ungrouped Conv2d.

    They are recognised by what they hold, not by class, since mixed-precision loaders bring their own
    Linear classes that are no ``torch.nn.Linear``.
    """
    for name, module in root.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        linear = weight.dim() == 2 and hasattr(module, "in_features")
        conv = weight.dim() == 4 and hasattr(module, "in_channels") and not getattr(module, "transposed", False)
        if linear or (conv and getattr(module, "groups", 1) == 1):
            yield name, module


class DualMonitor:
    """Attached for exactly one sampling run, as a context manager.

    Args:
        root: the diffusion model; layers are named by their path in it.
        rows_per_layer: how many input rows to keep of each layer, drawn uniformly from all that pass; 0 for none.
        seed: of that draw.
        expected_calls: how often the model will be called. With another number the samples end smaller than
            ``rows_per_layer``, at worst by half.
        earlier: the statistics that this run's will be added to. Most of a sample would be dropped then: only as many
            rows are drawn as this run will have in the sum.
    """

    def __init__(
        self,
        root: torch.nn.Module,
        rows_per_layer: int = 0,
        seed: int = 0,
        expected_calls: int = 1,
        earlier: Statistics | None = None,
    ) -> None:
        self._root = root
        self._rows_per_layer, self._expected_calls = rows_per_layer, max(1, expected_calls)
        self._earlier = earlier
        self._positions = Positions(seed)
        self._inputs = InputRecorder()
        self._layers: dict[str, _Layer] = {}
        self._banks: dict[torch.device, SumBank] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._previous: tuple[weakref.ref[torch.Tensor], _Layer] | None = None

    def __enter__(self) -> DualMonitor:
        for name, module in quantizable_layers(self._root):
            self._layers[name] = layer = _Layer(name, module)
            self._handles.append(module.register_forward_hook(self._hook(layer)))
        self._handles.append(self._root.register_forward_pre_hook(self._begin_call, with_kwargs=True))
        self._handles.append(self._root.register_forward_hook(lambda *_: self._fold()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._previous = None

    def statistics(self) -> Statistics:
        """What the run measured, on the CPU: the only moment at which the device is read."""
        self._fold()
        inputs: dict[str, torch.Tensor] = {}
        outputs: dict[str, torch.Tensor] = {}
        for device, bank in self._banks.items():
            here = {name for name, layer in self._layers.items() if layer.device == device}
            some_inputs, some_outputs = bank.totals()
            inputs |= {name: value for name, value in some_inputs.items() if name in here}
            outputs |= {name: value for name, value in some_outputs.items() if name in here}
        layers = {
            name: LayerStatistics(
                input_rows=layer.input_rows,
                input_sums=inputs[layer.leader.name],
                output_sums=torch.cat([torch.tensor([layer.outputs], dtype=torch.float64), outputs[name]]),
                rows=layer.reservoir.rows() if layer.reservoir else None,
                shape=layer.shape,
            )
            for name, layer in self._layers.items()
            if layer.input_rows
        }
        return Statistics(layers=layers, inputs=self._inputs.inputs())

    def _begin_call(self, _root: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._positions.renew()
        self._inputs.see(args, kwargs)

    def _hook(self, layer: _Layer) -> Any:
        def measure(_module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            if layer.called:  # twice in one call of the model
                self._fold()
            self._see(layer, args[0], output)

        return measure

    def _see(self, layer: _Layer, identity: torch.Tensor, y: torch.Tensor) -> None:
        # Views cost as much as a small sum, and samplers run without gradients anyway.
        x = identity.detach() if identity.requires_grad else identity
        y = y.detach() if y.requires_grad else y
        if layer.sums is None:
            layer.device = x.device
            layer.sums = self._bank(layer).of(layer.name, layer.window)
        channel = x.dim() - 3 if layer.is_conv else x.dim() - 1
        # to_q, to_k and to_v receive the very same tensor one after the other: measure it once, for the first of them.
        previous = self._previous
        leader = previous[1] if previous and previous[0]() is identity and previous[1].can_lead(layer) else layer
        rows = x.numel() // x.shape[channel] if x.numel() else 0
        if not layer.input_rows:
            layer.leader = leader
            layer.reservoir = self._reservoir(layer, rows) if leader is layer else leader.reservoir
        elif layer.leader is not leader:
            self._leave(layer)
        if layer.leader is layer:
            draw = None
            if layer.reservoir is not None:
                draw = layer.reservoir.draw(x, y, y.shape[channel])
            layer.sums.add(x, channel, y, draw)
            self._previous = (weakref.ref(identity), layer)
        else:
            layer.sums.add(None, channel, y, None)
        layer.called = True
        layer.input_rows += rows
        layer.outputs += y.numel()

    def _reservoir(self, layer: _Layer, rows: int) -> Reservoir | None:
        """An empty sample for a layer whose first call has so many rows."""
        size, expected = self._rows_per_layer, rows * self._expected_calls
        if not size or not rows or (layer.is_conv and layer.window is None):
            return None
        before = self._earlier.layers.get(layer.name) if self._earlier else None
        if self._earlier and before and before.rows is not None and len(before.rows) >= _FULL * size:
            # Some samplers call the model twice a step; the runs before this one tell.
            expected = max(expected, before.input_rows // self._earlier.runs)
            share = size * expected / (expected + before.input_rows)
            # How many of them the sum will take is drawn by lot; four standard deviations are enough for any lot.
            size = min(size, math.ceil(share + 4 * math.sqrt(share)))
        return Reservoir(size, layer.window, self._positions, expected / rows)

    def _bank(self, layer: _Layer) -> SumBank:
        assert layer.device is not None
        if layer.device not in self._banks:
            self._banks[layer.device] = SumBank({e.name: e.channels for e in self._layers.values()}, layer.device)
        return self._banks[layer.device]

    def _fold(self) -> None:
        """End a call of the model: every layer was called once since the last time, or not at all."""
        for layer in self._layers.values():
            if layer.leader is not layer and layer.called != layer.leader.called:
                self._leave(layer)
        for layer in self._layers.values():
            layer.called = False
        for bank in self._banks.values():
            bank.fold()

    def _leave(self, layer: _Layer) -> None:
        """From now on a layer has another input than its leader: what they had in common becomes its own."""
        if layer.leader is layer:
            return
        self._bank(layer).copy_history(layer.leader.name, layer.name)
        # The leader may have been called already in this call of the model, with what is not this layer's input.
        layer.reservoir = layer.reservoir.fork(without_last=layer.leader.called) if layer.reservoir else None
        layer.leader = layer


class _Layer:
    """What the monitor knows of one layer. ``leader`` is the layer that measures the input for it, often itself."""

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        weight: Any = module.weight
        self.name = name
        self.is_conv = weight.dim() == 4
        self.shape = tuple(weight.shape)
        self.channels = self.shape[1]
        self.window = Window.of(module) if self.is_conv else None
        self.device: torch.device | None = None
        self.sums: LayerSums | None = None
        self.leader = self
        self.reservoir: Reservoir | None = None
        self.called = False
        self.input_rows = 0
        self.outputs = 0

    def can_lead(self, other: _Layer) -> bool:
        """Whether what this layer measures of an input is what the other would."""
        return self.window == other.window and self.is_conv == other.is_conv and self.device == other.device
