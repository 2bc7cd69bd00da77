"""ComfyUI's own: ``L.weight_scale``, an F32 scalar, and ``L.comfy_quant``, JSON as U8; Linear layers only."""

from __future__ import annotations

import json

import torch

from .base import Form, Format, Shape
from .stored_layer import FP8_DTYPES

# Without the flag, FP8 hardware quantizes the layer's input with scale 1, which outliers do not survive.
_DESCRIPTION = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).encode("ascii")
_OPEN_CLIP = ".resblocks."


def _side_tensors(layer: str, scale: torch.Tensor, _shape: Shape) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.weight_scale": scale.reshape(()),
        f"{layer}.comfy_quant": torch.tensor(list(_DESCRIPTION), dtype=torch.uint8),
    }


COMFY = Format(
    "comfy",
    form=Form("v2", scaling="tensor", side_tensors=_side_tensors),
    dimensions=frozenset({2}),
    takes_channel_scales=False,
    recognizes=lambda layer: layer.dtype in FP8_DTYPES and layer.suffix == ".weight_scale",
    hint="Opens in recent ComfyUI's own loaders, and in HSWQ Loader.",
    how_to_load="Recent ComfyUI opens it with its own loaders; *HSWQ Loader* opens it, too.",
    holds_text_encoders=True,
    # ComfyUI's own loaders rename the weights of OpenCLIP, and drop what stands beside them.
    drops_scale=lambda layer: _OPEN_CLIP in layer,
)
