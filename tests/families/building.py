"""A family's tiny model as a file that ComfyUI opens, and what to sample it with."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_detection
import comfy.ops
import comfy.supported_models
import comfy.utils
import torch
from safetensors.torch import save_file

from tests.families.family import Family


def known(family: Family) -> bool:
    """Whether this ComfyUI has the family."""
    return hasattr(comfy.supported_models, family.kind)


def write(family: Family, path: Path) -> None:
    """The file with random weights."""
    model = _model(family, dict(family.settings))
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, parameter in model.state_dict().items():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1 and parameter.numel():
            values *= family.gain / parameter[0].numel() ** 0.5
        elif ("norm" in name or ".ln" in name) and name.endswith(("weight", "scale", "gamma")):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        weights[name] = values.to(family.dtype)
    named = family.rename(weights) if not family.layout else _in_layout(family, weights)
    save_file({family.prefix + k: v.clone(memory_format=torch.contiguous_format) for k, v in named.items()}, path)


def _model(family: Family, settings: dict[str, Any]) -> torch.nn.Module:
    """The diffusion model; older versions of ComfyUI do not know all settings of today's."""
    config = getattr(comfy.supported_models, family.kind)(dict(settings))
    config.custom_operations = comfy.ops.manual_cast
    config.set_inference_dtype(torch.float32, None)
    try:
        return config.get_model({}, "").diffusion_model
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None or unknown[1] not in settings:
            raise
        return _model(family, {name: value for name, value in settings.items() if name != unknown[1]})


def _in_layout(family: Family, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the names, and in the pieces, that others have them in."""
    if family.layout == "tencent":
        for theirs, ours in (
            ("_mod.linear.", "_mod.lin."), ("_attn_qkv.", "_attn.qkv."), ("mlp.fc1.", "mlp.0."), ("mlp.fc2.", "mlp.2."),
            ("_attn_q_norm.weight", "_attn.norm.query_norm.weight"), ("_attn_proj.", "_attn.proj."),
            ("_attn_k_norm.weight", "_attn.norm.key_norm.weight"), (".q_norm.weight", ".norm.query_norm.weight"),
            (".k_norm.weight", ".norm.key_norm.weight"), (".modulation.linear.", ".modulation.lin."),
        ):  # fmt: skip
            weights = {key.replace(ours, theirs): tensor for key, tensor in weights.items()}
        return weights
    maps = {"Flux": comfy.utils.flux_to_diffusers, "SD3": comfy.utils.mmdit_to_diffusers}
    settings = {**family.settings, "num_blocks": family.settings.get("depth")}
    if family.kind == "SD3":
        settings["depth"] = weights["x_embedder.proj.weight"].shape[0] // 64
    found: dict[str, torch.Tensor] = {}
    made: set[object] = set()
    for theirs, ours in maps.get(family.kind, comfy.utils.unet_to_diffusers)(settings).items():
        name, offset, *change = (ours, None) if isinstance(ours, str) else ours
        if (name, offset) in made or name not in weights:
            continue  # some have two names
        made.add((name, offset))
        piece = weights[name] if offset is None else weights[name].narrow(*offset)
        found[theirs] = change[0](piece) if change else piece
    return found


@contextlib.contextmanager
def detected(family: Family) -> Iterator[None]:
    """Meanwhile ComfyUI finds the family in its files, too small as they are."""
    find, choose = comfy.model_detection.detect_unet_config, comfy.model_detection.model_config_from_unet_config

    def found(*args: Any, **kwargs: Any) -> Any:
        settings = find(*args, **kwargs)
        return settings if settings is None and family.layout else (settings or {}) | family.post or None

    def chosen(settings: Any, *args: Any, **kwargs: Any) -> Any:
        kind = getattr(comfy.supported_models, family.kind)
        return kind(settings) if family.force else choose(settings, *args, **kwargs)

    def guessed(*_: Any) -> Any:
        return getattr(comfy.supported_models, family.kind)(dict(family.settings))

    with (
        mock.patch.object(comfy.model_detection, "model_config_from_diffusers_unet", guessed),
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
