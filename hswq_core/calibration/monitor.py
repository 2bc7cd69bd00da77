"""The dual monitor: forward hooks that measure every Linear and Conv2d of a torch module tree.

Sums stay on the model's device and are never read inside a step, so a GPU is not made to wait. They are
turned into statistics once, when the run is over.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

from .inputs import InputRecorder
from .rows import Positions, Reservoir, Window
from .statistics import LayerStatistics, Statistics
from .sums import SumBank


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
    """

    def __init__(self, root: torch.nn.Module, rows_per_layer: int = 0, seed: int = 0, expected_calls: int = 1) -> None:
        self._root = root
        self._rows_per_layer, self._expected_calls = rows_per_layer, max(1, expected_calls)
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
            self._see(layer, args[0].detach(), args[0], output.detach())

        return measure

    def _see(self, layer: _Layer, x: torch.Tensor, identity: torch.Tensor, y: torch.Tensor) -> None:
        bank = self._bank(layer, x.device)
        channel = x.dim() - 3 if layer.is_conv else x.dim() - 1
        shape = y.shape[:channel] + y.shape[channel + 1 :]
        # to_q, to_k and to_v receive the very same tensor one after the other: measure it once, for the first of them.
        leader = self._previous[1] if self._previous and self._previous[0]() is identity else layer
        if leader.window != layer.window or leader.is_conv != layer.is_conv or leader.device != layer.device:
            leader = layer
        if not layer.input_rows:
            layer.leader = leader
            own = self._rows_per_layer and (layer.window or not layer.is_conv)
            if leader is not layer:
                layer.reservoir = leader.reservoir
            elif own:
                layer.reservoir = Reservoir(self._rows_per_layer, layer.window, self._positions, self._expected_calls)
        elif layer.leader is not leader:
            self._leave(layer)
        if layer.leader is layer:
            bank.add_input(layer.name, x, channel)
            if layer.reservoir is not None:
                layer.reservoir.add(x, shape)
            self._previous = (weakref.ref(identity), layer)
        bank.add_output(layer.name, y)
        layer.called = True
        layer.input_rows += x.numel() // x.shape[channel] if x.numel() else 0
        layer.outputs += y.numel()

    def _bank(self, layer: _Layer, device: torch.device) -> SumBank:
        layer.device = device if layer.device is None else layer.device
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
        self._bank(layer, layer.device or torch.device("cpu")).copy_history(layer.leader.name, layer.name)
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
        self.leader = self
        self.reservoir: Reservoir | None = None
        self.called = False
        self.input_rows = 0
        self.outputs = 0
