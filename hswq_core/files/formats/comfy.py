"""ComfyUI's own: ``L.weight_scale``, an F32 scalar, and ``L.comfy_quant``, JSON as U8; Linear layers only."""

from __future__ import annotations

import json

import torch

from .base import Format

# Without the flag, FP8 hardware quantizes the layer's input with scale 1, which outliers do not survive.
_DESCRIPTION = json.dumps({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}).encode("ascii")


def _side_tensors(layer: str, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        f"{layer}.weight_scale": scale.reshape(()),
        f"{layer}.comfy_quant": torch.tensor(list(_DESCRIPTION), dtype=torch.uint8),
    }


COMFY = Format("comfy", scaling="tensor", dimensions=frozenset({2}), per_channel=False, side_tensors=_side_tensors)
