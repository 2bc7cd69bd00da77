"""A family's tiny model as a file that ComfyUI opens, and what to sample it with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_detection
import comfy.ops
import comfy.supported_models
import torch
from safetensors.torch import save_file

from tests.families.catalogue import Family


def known(family: Family) -> bool:
    """Whether this ComfyUI has the family."""
    return hasattr(comfy.supported_models, family.kind)


def write(family: Family, path: Path) -> None:
    """The file with random weights."""
    config = getattr(comfy.supported_models, family.kind)(dict(family.settings))
    config.custom_operations = comfy.ops.manual_cast
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "").diffusion_model
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            values *= family.gain / parameter[0].numel() ** 0.5
        elif ("norm" in name or ".ln" in name) and name.endswith(("weight", "scale", "gamma")):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        weights[name] = values.to(family.dtype)
    weights |= {k: v.to(family.dtype) for k, v in model.state_dict().items() if k not in weights}
    save_file({family.prefix + k: v.contiguous() for k, v in family.rename(weights).items()}, path)


@contextlib.contextmanager
def detected(family: Family) -> Iterator[None]:
    """Meanwhile ComfyUI finds the family in its files, too small as they are."""
    find, choose = comfy.model_detection.detect_unet_config, comfy.model_detection.model_config_from_unet_config

    def found(*args: Any, **kwargs: Any) -> Any:
        settings = find(*args, **kwargs) or {}
        return settings | family.post or None

    def chosen(settings: Any, *args: Any, **kwargs: Any) -> Any:
        kind = getattr(comfy.supported_models, family.kind)
        return kind(settings) if family.force else choose(settings, *args, **kwargs)

    with (
        mock.patch.object(comfy.model_detection, "detect_unet_config", found),
        mock.patch.object(comfy.model_detection, "model_config_from_unet_config", chosen),
    ):
        yield


def conditioning(family: Family, seed: int) -> list[Any]:
    """Positive (seed 0) or negative (1) conditioning."""
    generator = torch.Generator().manual_seed(100 + seed)
    extras = family.extras(generator)
    if family.pooled:
        extras["pooled_output"] = torch.randn(1, family.pooled, generator=generator)
    return [[torch.randn(1, *family.text, generator=generator), extras]]
