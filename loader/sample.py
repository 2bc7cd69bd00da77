"""Sampling as ComfyUI's own KSampler does it, called from a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.sample
import latent_preview
import torch


def encode(clip: Any, texts: Sequence[str]) -> list[Any]:
    """The conditioning of a batch of texts, one for each image."""
    each = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]
    if len(each) == 1:
        return list(each[0])  # a scheduled text encoder gives one for each part of the steps
    (first, extras), *_ = each[0]
    joined: dict[str, Any] = dict(extras)
    length = max(entry[0][0].shape[1] for entry in each)
    first = torch.cat([_padded(entry[0][0], length) for entry in each])
    if extras.get("pooled_output") is not None:
        joined["pooled_output"] = torch.cat([entry[0][1]["pooled_output"] for entry in each])
    return [[first, joined]]


def sample(
    model: Any,
    positive: list[Any],
    negative: list[Any],
    latent: torch.Tensor,
    *,
    steps: int,
    cfg: float,
    sampler: str,
    scheduler: str,
    seed: int,
    callback: Callable[..., None] | None = None,
) -> torch.Tensor:
    """The latents that KSampler makes of an empty latent [B, C, H, W] at full denoise.

    Args:
        callback: called after each step as ComfyUI calls it, with step, denoised, noisy, steps in all.
    """
    latent = comfy.sample.fix_empty_latent_channels(model, latent)
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, positive, negative, latent,
        callback=callback, disable_pbar=True, seed=seed,
    )  # fmt: skip


def _padded(text: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(text, (0, 0, 0, length - text.shape[1]))


def previewer(model: Any) -> Callable[[torch.Tensor], Any]:
    """A function from a latent to the preview that a progress bar shows; ``None`` where previews are off."""
    found = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    return lambda latent: found.decode_latent_to_preview_image("JPEG", latent) if found else None
