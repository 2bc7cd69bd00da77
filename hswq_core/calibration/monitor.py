"""The dual monitor: forward hooks that measure every Linear layer and convolution of a torch module tree.

Sums stay on the model's device and are never read inside a step, so a GPU is not made to wait. They are
turned into statistics once, when the run is over. Input rows are sampled by ``row_sampling``.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from types import TracebackType
from typing import Any

import torch

from .accumulators.bank import SumBank
from .arguments import layer_input
from .bypasses import LayerUse, bypassed_layer
from .layer_state import LayerState, count_positions
from .model_inputs import InputRecorder
from .row_sampling import RowSampling
from .shared_inputs import SharedInputs
from .statistics import LayerStatistics, Statistics

DEVICE_MEMORY = 128 << 20
"""Bytes that measuring takes on the model's device at most, for SDXL: 64 MB of sums, and a layer's rows of one call."""
_COMPILED = "_orig_mod."
"""Under this name ``torch.compile`` keeps the module that it compiles."""


def quantizable_layers(root: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The layers HSWQ can quantize, with their module paths: Linear, and convolutions that are not transposed.

    They are recognised by what they hold, not by class, since mixed-precision loaders bring their own
    Linear classes that are not a ``torch.nn.Linear``. A compiled module in a module's place is not part of a path.
    """
    for name, module in root.named_modules():
        weight: Any = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        linear = weight.dim() == 2 and hasattr(module, "in_features")
        conv = weight.dim() in (3, 4, 5) and hasattr(module, "in_channels") and hasattr(module, "kernel_size")
        if linear or (conv and not getattr(module, "transposed", False)):
            yield name.replace(_COMPILED, ""), module


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
        self._earlier, self._only = earlier, only
        self.calls, self._begun = 0, False
        self._sampling = RowSampling(rows_per_layer, seed, max(1, expected_calls), earlier)
        self._inputs = InputRecorder(seed)
        self._layers: dict[str, LayerState] = {}
        self._banks: dict[torch.device, SumBank] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._sharing = SharedInputs(self._copy_measured)

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
        self._sampling.end_run()

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
        rows = self._sampling.rows()
        layers = {
            name: LayerStatistics(
                input_rows=layer.input_rows,
                input_sums=inputs[layer.leader.name],
                output_sums=torch.cat([torch.tensor([layer.outputs], dtype=torch.float64), outputs[name]]),
                rows=rows.get(name),
                shape=layer.shape,
            )
            for name, layer in self._layers.items()
            if layer.input_rows
        }
        return Statistics(layers=layers, inputs=self._inputs.inputs(), never_ran=self._never_ran())

    def bypassed(self) -> str:
        """A layer that was computed without its module in the run, so that its statistics are a part; or nothing."""
        seen = {name: LayerUse(layer.calls, layer.input_rows) for name, layer in self._layers.items()}
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
        self._sampling.begin_call()
        self._inputs.record(args, kwargs)

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
            self._measure(layer, layer_input(args, kwargs), output)

        return measure

    def _measure(self, layer: LayerState, identity: torch.Tensor, y: torch.Tensor) -> None:
        # Views cost as much as a small sum, and samplers run without gradients anyway.
        x = identity.detach() if identity.requires_grad else identity
        y = y.detach() if y.requires_grad else y
        if layer.sums is None:
            layer.device = x.device
            layer.sums = self._bank(layer).of(layer.name, layer.window)
        if layer.spatial in (1, 3):
            x, y = _as_image(x, layer.spatial), _as_image(y, layer.spatial)
        channel = x.dim() - 3 if layer.spatial else x.dim() - 1
        leader = self._sharing.leader_of(layer, identity)
        sample = self._sampling.sample(layer, x, y, channel)
        layer.sums.add(x if leader is layer else None, channel, y, sample)
        self._sampling.commit(sample)
        layer.called = True
        layer.calls += 1
        layer.input_rows += count_positions(x, channel)
        layer.outputs += y.numel()

    def _copy_measured(self, leader: LayerState, follower: LayerState) -> None:
        self._bank(follower).copy_history(leader.name, follower.name)
        self._sampling.separate(leader, follower)

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
        self._sampling.end_call()


def _as_image(x: torch.Tensor, spatial: int) -> torch.Tensor:
    """A sequence or a volume [..., C, *spatial] as what convolutions over images have: [..., C, 1, positions]."""
    return x.flatten(-spatial).unsqueeze(-2)
