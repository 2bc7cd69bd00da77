"""Measured sensitivity: how far the model's own output moves when one layer alone is quantized.

A rounded weight W_q = W + C adds C x to the layer's output and changes nothing else, so a hook adds just that:
no weight is touched, and it works wherever and however the weights are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..calibration.model_inputs import TIMESTEP, ModelInput

# Inputs are run together up to this many latent elements: one of SDXL's at 1024 x 1024, many of a small model's.
_TOGETHER = 1 << 17


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
        self._batches = [_on(device, batch) for batch in _batched(inputs)]
        self._reference = [self._run(batch) for batch in self._batches]

    def impact(self, layer: torch.nn.Module, change: torch.Tensor) -> float:
        """|y_q - y|^2 / |y|^2, the mean over the inputs, when ``change`` is added to the weight of ``layer``."""
        hook = layer.register_forward_hook(_adding(change))
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

    def _run(self, batch: ModelInput) -> torch.Tensor:
        positional = [batch[str(i)] for i in range(sum(name.isdigit() for name in batch))]
        named = {name: tensor for name, tensor in batch.items() if not name.isdigit()}
        with torch.inference_mode():
            return self._root(*positional, **named, **self._options).float()


def _adding(change: torch.Tensor) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + _through(module, args[0], change)

    return hook


def _through(module: Any, x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    if change.dim() == 2:
        return torch.nn.functional.linear(x, change.to(x))
    return torch.nn.functional.conv2d(x, change.to(x), None, module.stride, module.padding, module.dilation)


def _on(device: torch.device, batch: ModelInput) -> ModelInput:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _batched(inputs: Sequence[ModelInput]) -> list[ModelInput]:
    """Inputs of one shape joined along their first dimension, up to ``_TOGETHER`` elements of the latent."""
    groups: list[list[ModelInput]] = []
    for entry in inputs:
        last = groups[-1] if groups else None
        if last and _alike(last[0], entry) and (len(last) + 1) * entry["0"].numel() <= _TOGETHER:
            last.append(entry)
        else:
            groups.append([entry])
    return [{name: torch.cat([entry[name] for entry in group]) for name in group[0]} for group in groups]


def _alike(a: ModelInput, b: ModelInput) -> bool:
    batch = len(a["0"])
    return (
        a.keys() == b.keys()
        and TIMESTEP in a
        and all(a[k].dim() and a[k].shape == b[k].shape and len(a[k]) == batch and a[k].dtype == b[k].dtype for k in a)
    )
