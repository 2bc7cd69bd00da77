"""Calling a diffusion model again on inputs that were kept, and a weight's change on a layer's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..calibration.model_inputs import TIMESTEP, ModelInput

TOGETHER = 1 << 17
"""Latent elements that are run together: one input of SDXL's at 1024 x 1024, many of a small model's."""


def call(root: torch.nn.Module, entry: ModelInput, options: Mapping[str, Any]) -> torch.Tensor:
    """The model's output for a kept input. Args: options: more keyword arguments."""
    positional = [entry[str(i)] for i in range(sum(name.isdigit() for name in entry))]
    named = {name: tensor for name, tensor in entry.items() if not name.isdigit()}
    return root(*positional, **named, **options)


def through(module: Any, x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """What a change of a layer's weight adds to its output."""
    if change.dim() == 2:
        return torch.nn.functional.linear(x, change.to(x))
    return torch.nn.functional.conv2d(x, change.to(x), None, module.stride, module.padding, module.dilation)


def on_device(device: torch.device, batch: ModelInput) -> ModelInput:
    """The same input, where the model runs."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


def batched(inputs: Sequence[ModelInput], together: int = TOGETHER) -> list[ModelInput]:
    """Inputs of one shape joined along their first dimension, up to so many elements of the latent."""
    groups: list[list[ModelInput]] = []
    for entry in inputs:
        last = groups[-1] if groups else None
        if last and _alike(last[0], entry) and (len(last) + 1) * entry["0"].numel() <= together:
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
