"""Calling a diffusion model again on inputs that were kept, and a weight's change on a layer's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..calibration.arguments import joined, map_tensors, tensors_of
from ..calibration.model_inputs import LATENT, OPTIONS, ModelInput, frames_of, images_of, not_recorded, parts_of
from ..errors import StatisticsError

Effect = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]
"""What is changed of a layer: dW, in the weight's shape; or where its input is rounded, too, what that adds to its
output, as a function of the input."""
MAX_BATCH_ELEMENTS = 1 << 17
"""Largest number of latent elements in a batch: one input of SDXL at 1024 x 1024, many of a small model."""
_CONVOLUTIONS = {
    3: torch.nn.functional.conv1d,
    4: torch.nn.functional.conv2d,
    5: torch.nn.functional.conv3d,
}


def call(root: torch.nn.Module, entry: ModelInput, options: Mapping[str, Any]) -> torch.Tensor:
    """The model's output for a kept input, [B, ...]; or [videos, frames, ...] where the batch is of frames.

    Frames of a video act on each other, so what is counted and compared is whole videos.

    Args:
        options: more keyword arguments; the host's options among them are added to those that were kept.
    """
    kept = {name: value for name, value in entry.items() if name not in not_recorded(entry)}
    positional = [kept.pop(str(i)) for i in range(sum(name.isdigit() for name in kept))]
    if isinstance(kept.get(OPTIONS), dict) and OPTIONS in options:
        options = {**options, OPTIONS: {**kept[OPTIONS], **options[OPTIONS]}}
    output, frames = as_one_tensor(root(*positional, **{**kept, **options})), frames_of(entry)
    return output if frames == 1 else output.unflatten(0, (-1, frames))


def as_one_tensor(output: Any) -> torch.Tensor:
    """A model's output as one tensor [B, ...]: some models return video and sound."""
    if isinstance(output, torch.Tensor):
        return output
    return torch.cat([part.flatten(1) for part in tensors_of(output)], 1)


def latent_size(entry: ModelInput) -> int:
    """Elements of the latent."""
    return sum(tensor.numel() for tensor in tensors_of(entry[LATENT]))


def apply_change(module: Any, x: torch.Tensor, change: Effect) -> torch.Tensor:
    """What a change of a layer adds to the layer's output."""
    if not isinstance(change, torch.Tensor):
        return change(x)
    if change.dim() == 2:
        return torch.nn.functional.linear(x, change.to(x))
    convolve: Any = _CONVOLUTIONS[change.dim()]
    return convolve(x, change.to(x), None, module.stride, module.padding, module.dilation, module.groups)


def not_called(layer: str) -> StatisticsError:
    """The error for a layer that hooks see no call of: its effect would be measured as zero."""
    return StatisticsError(
        "this layer ran during calibration, but its module was not called on the inputs that were kept, so that its "
        "effect cannot be measured",
        where=layer,
        remedy="Start ComfyUI without --fast, with which newer versions compute some layers past their modules; or "
        "measure on more probes",
    )


def on_device(device: torch.device, batch: ModelInput) -> ModelInput:
    """The same input, where the model runs."""
    return map_tensors(dict(batch), lambda tensor: tensor.to(device))


def batched(inputs: Sequence[ModelInput], max_elements: int = MAX_BATCH_ELEMENTS) -> list[ModelInput]:
    """Inputs of one kind joined along their first dimension, up to ``max_elements`` of the latent."""
    groups: list[list[ModelInput]] = []
    batches: list[ModelInput] = []
    for entry in inputs:
        if groups and (len(groups[-1]) + 1) * latent_size(entry) <= max_elements:
            try:
                batches[-1] = joined([dict(each) for each in (*groups[-1], entry)], images_of(entry), parts_of(entry))
                groups[-1].append(entry)
                continue
            except ValueError:
                pass
        groups.append([entry])
        batches.append(entry)
    return batches
