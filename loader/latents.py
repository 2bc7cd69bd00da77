"""The latent to begin with, of the size that a model's own family uses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.sample
import torch

from ..hswq_core.errors import PlanError

_IMAGE_MODELS = frozenset({"qwen_image", "anima", "krea2", "joyimage", "cosmos_predict2"})
"""Families that draw single images in a latent made for videos."""
_FRAMES = {4: 81, 6: 25, 8: 97}
"""Frames of a usual video by how many frames become one of the latent: Wan and Hunyuan, Mochi, LTX and Cosmos."""
_SIZES = {
    "StableAudio1": (64, 1024),  # 47 seconds
    "ACEAudio": (8, 16, 1291),  # 2 minutes
    "ACEAudio15": (64, 3000),  # 2 minutes
    "Hunyuan3Dv2": (64, 3072),
    "Hunyuan3Dv2_1": (64, 4096),
    "Hunyuan3Dv2mini": (64, 512),
}
"""Channels and lengths of sound and of shapes, by latent format."""
# What older versions of ComfyUI do not say of their formats.
_OLDER_PIXELS = {
    "Flux2": 16, "LTXV": 32, "Wan22": 16, "HunyuanImage21": 32, "HunyuanVideo15": 16, "ChromaRadiance": 1,
    "SC_Prior": 42, "SC_B": 4,
}  # fmt: skip
_OLDER_FRAMES = {"Mochi": 6, "LTXV": 8, "Cosmos1CV8x8x8": 8, "HunyuanImage21Refiner": 1}


def empty_latent(model: Any, images: int, width: int, height: int) -> torch.Tensor:
    """A latent of zeros in the format of a MODEL, for images or videos of this size in pixels.

    Errors: PlanError for a model whose usual size is not known.
    """
    size = _size(model, width, height)
    return torch.zeros(images, *size, device=comfy.model_management.intermediate_device())


def given_latent(model: Any, latent: Mapping[str, Any]) -> torch.Tensor:
    """A LATENT as KSampler takes it over: an empty one is fitted to the model's format."""
    told = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    known = inspect.signature(comfy.sample.fix_empty_latent_channels).parameters
    return comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], **{name: latent.get(name) for name in told if name in known}
    )


def _size(model: Any, width: int, height: int) -> tuple[int, ...]:
    form = model.get_model_object("latent_format")
    name = type(form).__name__
    if name in _SIZES:
        return _SIZES[name]
    pixels = _ratio(form, "spacial_downscale_ratio", _OLDER_PIXELS, 8)
    area = (form.latent_channels, height // pixels, width // pixels)
    if form.latent_dimensions == 2:
        return area
    if form.latent_dimensions == 1:
        raise PlanError(
            f"the usual size of this model's latent ({name}) is not known",
            remedy="Connect an empty latent of its family to the input 'latent'",
        )
    settings = model.model.model_config.unet_config
    images = settings.get("image_model") in _IMAGE_MODELS and settings.get("in_channels") != 17  # image to video
    every = _ratio(form, "temporal_downscale_ratio", _OLDER_FRAMES, 4)
    frames = 1 if images or every == 1 else (_FRAMES.get(every, 81) - 1) // every + 1
    return (area[0], frames, *area[1:])


def _ratio(form: Any, said: str, older: Mapping[str, int], usual: int) -> int:
    """What a latent format says of itself, or what is known of it."""
    if hasattr(comfy.latent_formats.LatentFormat, said):
        return int(getattr(form, said))
    return next((older[kind.__name__] for kind in type(form).__mro__ if kind.__name__ in older), usual)
