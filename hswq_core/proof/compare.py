"""Compares the runs of a pair: their latents, and the images that were decoded from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..metrics import ImageComparison, compare_images, mse
from .image_metrics import image_metrics
from .pair import Pair, compare_latents
from .runs import Run


def compare_runs(
    prompt: str,
    seed: int,
    runs: tuple[Run, Run],
    images: tuple[torch.Tensor, torch.Tensor],
    further: Mapping[str, float],
) -> tuple[Pair, ImageComparison]:
    """A pair's figures, and its images side by side.

    Args:
        runs, images: of reference and candidate; images [B, H, W, 3].
        further: figures of the pair that were measured elsewhere.

    Errors: HSWQError when latents or images differ in number or shape.
    """
    reference, candidate = runs
    compared = compare_images(*images)
    latent_mse = mse(reference.latents[-1], candidate.latents[-1])
    cosine, error = compare_latents(reference.latents, candidate.latents)
    figures = {"latent_mse": latent_mse} | image_metrics(*images) | dict(further)
    pair = Pair(prompt, seed, cosine, error, candidate.forced_error, compared.ssim, compared.psnr, figures)
    return pair, compared
