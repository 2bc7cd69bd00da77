"""Measured sensitivity: the change of the model's output when one layer alone is quantized.

A rounded weight W_q = W + C adds C x to the layer's output and changes nothing else, so a hook adds just that:
no weight is changed, and it works however the weights are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..calibration.arguments import layer_input
from ..calibration.model_inputs import ModelInput
from ..calibration.monitor import quantizable_layers
from .model_calls import Effect, apply_change, batched, call, not_called, on_device


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
        """|y_q - y|^2 / |y|^2, the mean over the inputs, when ``layer`` alone is changed.

        Errors: StatisticsError when no input leads to the layer's module: that would be an impact of nothing.
        """
        self.check_called({type(layer).__name__: layer})
        hook = layer.register_forward_hook(_adding(change), with_kwargs=True)
        total, count = torch.zeros((), dtype=torch.float64), 0
        try:
            for batch, expected in zip(self._batches, self._reference, strict=True):
                over = tuple(range(1, expected.dim()))
                difference = (self._run(batch) - expected).square().sum(over) / expected.square().sum(over)
                total += difference.double().sum().cpu()
                count += len(difference)
        finally:
            hook.remove()
        return float(total) / count

    def _count(self, layer: torch.nn.Module, *_: Any) -> None:
        self._called.add(layer)

    def _run(self, batch: ModelInput) -> torch.Tensor:
        with torch.inference_mode():
            return call(self._root, batch, self._options).float()


def _adding(change: Effect) -> Any:
    def hook(
        module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        return output + apply_change(module, layer_input(args, kwargs), change)

    return hook
