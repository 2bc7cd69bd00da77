"""The dual monitor: forward hooks that measure every Linear layer and convolution of a torch module tree.

Sums stay on the model's device and are never read inside a step, so a GPU is not made to wait. They are
turned into statistics once, when the run is over. Sampled rows go to RAM as they come (``landing``).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from types import TracebackType
from typing import Any

import torch

from .accumulators.bank import SumBank
from .arguments import layer_input
from .bypasses import Seen, bypassed_layer
from .landing import Landing
from .model_inputs import InputRecorder
from .positions import PositionSampler
from .reservoir import Reservoir
from .shared_inputs import LayerState, SharedInputs
from .statistics import LayerStatistics, Statistics

DEVICE_MEMORY = 128 << 20
"""Bytes that measuring takes on the model's device at most, for SDXL: 64 MB of sums, and a layer's rows of one call."""
_FULL = 0.9
"""From this share of its size on, a sample counts as full: later runs need not fill it up."""


def quantizable_layers(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The layers HSWQ can quantize, with their module paths: Linear, and convolutions that are not transposed.

    They are recognised by what they hold, not by class, since mixed-precision loaders bring their own
    Linear classes that are not a ``torch.nn.Linear``.
    """
    for name, module in root.named_modules():
        weight: Any = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        linear = weight.dim() == 2 and hasattr(module, "in_features")
        conv = weight.dim() in (3, 4, 5) and hasattr(module, "in_channels") and hasattr(module, "kernel_size")
        if linear or (conv and not getattr(module, "transposed", False)):
            yield name, module


class DualMonitor:
    """Attached for exactly one sampling run, as a context manager.

    Args:
        root: the diffusion model; layers are named by their path in it.
        rows_per_layer: how many input rows to keep of each layer, sampled uniformly from all that pass; 0 for none.
        seed: of that sample.
        expected_calls: how often the model will be called. With another number the samples end smaller than
            ``rows_per_layer``, at worst by half.
        earlier: the statistics that this run's will be added to. Most of a full sample would be dropped then, so
            a later run samples its expected share of the merged sample only.
        only: the names of the layers to measure; ``None`` for all.

    Layers are listed once more at the first call of the model: other tools put modules into it when a run begins.

    Attributes:
        calls: how often layers of the model ran; a cache may answer a call of the model without any.
    """

    def __init__(
        self,
        root: torch.nn.Module,
        rows_per_layer: int = 0,
        seed: int = 0,
        expected_calls: int = 1,
        earlier: Statistics | None = None,
        only: Container[str] | None = None,
    ) -> None:
        self._root = root
        self._rows_per_layer, self._expected_calls = rows_per_layer, max(1, expected_calls)
        self._earlier, self._only = earlier, only
        self.calls, self._begun = 0, False
        self._positions, self._landing = PositionSampler(seed), Landing()
        self._inputs = InputRecorder()
        self._layers: dict[str, LayerState] = {}
        self._banks: dict[torch.device, SumBank] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._sharing = SharedInputs(lambda leader, layer: self._bank(layer).copy_history(leader.name, layer.name))

    def __enter__(self) -> DualMonitor:
        self._attach()
        self._handles.append(self._root.register_forward_pre_hook(self._begin_call, with_kwargs=True))
        self._handles.append(self._root.register_forward_hook(lambda *_: self._fold()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._sharing.forget()
        self._landing.wait()

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
        return Statistics(layers=layers, inputs=self._inputs.inputs(), never_ran=self._never_ran())

    def bypassed(self) -> str:
        """A layer that was computed without its module in the run, so that its statistics are a part; or nothing."""
        seen = {name: Seen(layer.calls, layer.input_rows) for name, layer in self._layers.items()}
        before = self._earlier.layers if self._earlier else {}
        return bypassed_layer(self._root, seen, {name: layer.input_rows for name, layer in before.items()})

    def _never_ran(self) -> dict[str, float]:
        """The layers without a call, with their share of the weights of all layers."""
        whole = sum(math.prod(layer.shape) for layer in self._layers.values())
        return {name: math.prod(e.shape) / whole for name, e in self._layers.items() if not e.calls and e.shape}

    def _begin_call(self, _root: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._begun:
            self._attach()
            self._begun = True
        self._positions.renew()
        self._inputs.see(args, kwargs)

    def _attach(self) -> None:
        for name, module in quantizable_layers(self._root):
            if name not in self._layers and (self._only is None or name in self._only):
                self._layers[name] = layer = LayerState(name, module)
                self._handles.append(module.register_forward_hook(self._hook(layer), with_kwargs=True))

    def _hook(self, layer: LayerState) -> Any:
        def measure(
            _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
        ) -> None:
            if layer.called:  # twice in one call of the model
                self._fold()
            self._see(layer, layer_input(args, kwargs), output)

        return measure

    def _see(self, layer: LayerState, identity: torch.Tensor, y: torch.Tensor) -> None:
        # Views cost as much as a small sum, and samplers run without gradients anyway.
        x = identity.detach() if identity.requires_grad else identity
        y = y.detach() if y.requires_grad else y
        if layer.sums is None:
            layer.device = x.device
            layer.sums = self._bank(layer).of(layer.name, layer.window)
        if layer.spatial in (1, 3):
            x, y = _as_image(x, layer.spatial), _as_image(y, layer.spatial)
        channel = x.dim() - 3 if layer.spatial else x.dim() - 1
        rows = x.numel() // x.shape[channel] if x.numel() else 0
        leader = self._sharing.leader_of(layer, identity)
        if not layer.input_rows:
            layer.reservoir = self._reservoir(layer, rows) if leader is layer else leader.reservoir
        if leader is layer:
            sample = None
            if layer.reservoir is not None:
                sample = layer.reservoir.sample(x, y, y.shape[channel])
            layer.sums.add(x, channel, y, sample)
            if layer.reservoir is not None and sample is not None:
                layer.reservoir.taken(sample)
        else:
            layer.sums.add(None, channel, y, None)
        layer.called = True
        layer.calls += 1
        layer.input_rows += rows
        layer.outputs += y.numel()

    def _reservoir(self, layer: LayerState, rows: int) -> Reservoir | None:
        """An empty sample for a layer whose first call has ``rows`` rows."""
        size, expected = self._rows_per_layer, rows * self._expected_calls
        if not size or not rows or (layer.spatial and layer.window is None):
            return None
        before = self._earlier.layers.get(layer.name) if self._earlier else None
        if self._earlier and before and before.rows is not None and len(before.rows) >= _FULL * size:
            # Some samplers call the model twice a step; the runs before this one tell.
            expected = max(expected, before.input_rows // self._earlier.runs)
            share = size * expected / (expected + before.input_rows)
            # The share that the merged sample takes is binomial: four standard deviations more are always enough.
            size = min(size, math.ceil(share + 4 * math.sqrt(share)))
        return Reservoir(size, layer.window, self._positions, self._landing, expected / rows)

    def _bank(self, layer: LayerState) -> SumBank:
        assert layer.device is not None
        if layer.device not in self._banks:
            self._banks[layer.device] = SumBank({e.name: e.channels for e in self._layers.values()}, layer.device)
        return self._banks[layer.device]

    def _fold(self) -> None:
        """End a call of the model: every layer was called once since the last time, or not at all."""
        self.calls += any(layer.called for layer in self._layers.values())
        self._sharing.end_call(self._layers.values())
        for layer in self._layers.values():
            layer.called = False
        for bank in self._banks.values():
            bank.fold()
        self._landing.end_call()


def _as_image(x: torch.Tensor, spatial: int) -> torch.Tensor:
    """A sequence or a volume [..., C, *spatial] as what convolutions over images have: [..., C, 1, positions]."""
    return x.flatten(-spatial).unsqueeze(-2)
