"""Image similarity by CLIP: of two images, and of an image and its prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cosine_similarity, normalize


class ClipMetrics:
    """Args: clip_vision: ComfyUI's CLIP_VISION; clip: the text encoder of both models."""

    def __init__(self, clip_vision: Any, clip: Any) -> None:
        self._vision, self._clip = clip_vision, clip

    def of_pair(self, prompt: str, reference: torch.Tensor, candidate: torch.Tensor) -> dict[str, float]:
        """``clip_image``, the cosine of the images [B, H, W, 3]; ``clip_score``, the cosine of prompt and candidate
        less that of prompt and reference, where texts are of the same space.
        """
        one, other = (self._embedded(images) for images in (reference, candidate))
        found = {"clip_image": float(cosine_similarity(one, other).mean())}
        text = self._text(prompt, one.shape[-1])
        if text is not None:
            found["clip_score"] = float(((other - one) @ text).mean())
        return found

    def _embedded(self, images: torch.Tensor) -> torch.Tensor:
        """[B, D] of length 1."""
        return normalize(self._vision.encode_image(images[..., :3])["image_embeds"].cpu().double(), dim=-1)

    def _text(self, prompt: str, width: int) -> torch.Tensor | None:
        """[D] of length 1, or ``None`` where texts are not in the images' space.

        Of the text encoders in checkpoints, CLIP-G alone brings the projection into it (SDXL, with CLIP-vision's G).
        """
        if not hasattr(self._clip.cond_stage_model, "clip_g"):
            return None
        _, pooled = self._clip.encode_from_tokens(self._clip.tokenize(prompt), return_pooled=True)
        if pooled is None or pooled.shape[-1] != width:
            return None
        return normalize(pooled[0].cpu().double().flatten(), dim=-1)
