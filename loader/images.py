"""Images of ComfyUI as files and as data for pages and headers."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image


def as_pil(image: torch.Tensor) -> Image.Image:
    """Args: image: [H, W, 3] in [0, 1]."""
    return Image.fromarray((image * 255).round().clamp(0, 255).byte().cpu().numpy())


def as_jpeg(image: torch.Tensor, longest: int = 0) -> bytes:
    """Args: image: [H, W, 3] in [0, 1]; longest: sides are made no longer than this; 0 leaves them."""
    pil, data = as_pil(image), io.BytesIO()
    if longest:
        pil.thumbnail((longest, longest))
    pil.save(data, "JPEG", quality=90)
    return data.getvalue()


def data_uri(image: torch.Tensor, longest: int = 0) -> str:
    """A JPEG as the address that stands for it; arguments as for ``as_jpeg``."""
    return f"data:image/jpeg;base64,{base64.b64encode(as_jpeg(image, longest)).decode('ascii')}"
