"""Measured sensitivity: the change of the model's output when one layer alone is quantized, or all that are.

A rounded weight W_q = W + C adds C x to the layer's output and changes nothing else, so a hook adds just that:
no weight is changed, and it works however the weights are stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import torch

from ..calibration.arguments import layer_input
from ..calibration.model_inputs import ModelInput, weights_of
from ..calibration.monitor import quantizable_layers
from ..progress import Progress, no_progress
from .layer_tap import Change, WeightOf
from .model_calls import Effect, apply_change, batched, call, not_called, on_device


@dataclass(frozen=True)
class OutputErrors:
    """The relative squared error of the model's output on each sample, and the sample's share of an image's steps."""

    each: tuple[float, ...]
    weights: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the steps of whole images."""
        return math.fsum(map(mul, self.each, self.weights)) / math.fsum(self.weights)


class ImpactMeter:
    """Runs a model on kept inputs, as it is and with one layer changed.

    Args:
        root: the diffusion model, ready to run.
        inputs: what to run it on.
        device: where it runs.
        options: more keyword arguments for every call.
    """

    def __init__(
        self, root: torch.nn.Module, inputs: Sequence[ModelInput], device: torch.device, options: Mapping[str, Any]
    ) -> None:
        self._root, self._options = root, options
        self._batches = [on_device(device, batch) for batch in batched(inputs)]
        self._called: set[torch.nn.Module] = set()
        counting = [module.register_forward_hook(self._count) for _, module in quantizable_layers(root)]
        try:
            self._reference = [self._run(batch) for batch in self._batches]
        finally:
            for hook in counting:
                hook.remove()

    def check_called(self, layers: Mapping[str, torch.nn.Module]) -> None:
        """Errors: StatisticsError for the first of these layers that no input leads to."""
        for name, layer in layers.items():
            if layer not in self._called:
                raise not_called(name)

    def impact(self, layer: torch.nn.Module, change: Effect) -> float:
        """|y_q - y|^2 / |y|^2, the weighted mean over the inputs, when ``layer`` alone is changed.

        Errors: StatisticsError when no input leads to the layer's module: that would be an impact of nothing.
        """
        self.check_called({type(layer).__name__: layer})
        return self._errors({layer: lambda _module, _x: change}, no_progress).mean

    def impact_together(
        self, changes: Mapping[torch.nn.Module, Change], weight_of: WeightOf, progress: Progress = no_progress
    ) -> OutputErrors:
        """|y_q - y|^2 / |y|^2 of each sample when all these layers are changed at once.

        Args:
            changes: found again whenever a layer runs, since all together may take as much memory as the model.
            weight_of: returns a layer's weight.
        """

        def found_again(change: Change) -> Callable[[torch.nn.Module, torch.Tensor], Effect]:
            return lambda module, x: change(weight_of(module, x))

        return self._errors({layer: found_again(change) for layer, change in changes.items()}, progress)

    def _errors(
        self, changes: Mapping[torch.nn.Module, Callable[[torch.nn.Module, torch.Tensor], Effect]], progress: Progress
    ) -> OutputErrors:
        """Of each sample, while layers are changed by what a function of the layer and its input gives."""
        hooks = [layer.register_forward_hook(_adding(effect), with_kwargs=True) for layer, effect in changes.items()]
        found = []
        try:
            for number, (batch, expected) in enumerate(zip(self._batches, self._reference, strict=True)):
                progress(number, len(self._batches))
                over = tuple(range(1, expected.dim()))
                found.append((self._run(batch) - expected).square().sum(over) / expected.square().sum(over))
        finally:
            for hook in hooks:
                hook.remove()
        progress(len(self._batches), len(self._batches))
        weights = torch.cat([weights_of(batch).cpu() for batch in self._batches])
        return OutputErrors(tuple(torch.cat(found).cpu().double().tolist()), tuple(weights.tolist()))

    def _count(self, layer: torch.nn.Module, *_: Any) -> None:
        self._called.add(layer)

    def _run(self, batch: ModelInput) -> torch.Tensor:
        with torch.inference_mode():
            return call(self._root, batch, self._options).float()


def _adding(effect: Callable[[torch.nn.Module, torch.Tensor], Effect]) -> Any:
    def hook(
        module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        x = layer_input(args, kwargs)
        return output + apply_change(module, x, effect(module, x))

    return hook
