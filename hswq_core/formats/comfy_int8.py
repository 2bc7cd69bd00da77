"""comfy-int8: the integers of int8 for Linear layers alone, as ComfyUI's own loaders read them from version 0.27 on.

They then quantize the layers' inputs, too, and may rotate them before (``convrot``).
"""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from ..grids import INT8
from .base import Form, Format, Shape
from .int8 import scale_by_row

_DESCRIPTION = {"format": "int8_tensorwise"}
_LONGEST = len(json.dumps(_DESCRIPTION | {"convrot": True, "convrot_groupsize": 256}))


def _described(layer: str, scale: torch.Tensor, shape: Shape) -> dict[str, torch.Tensor]:
    return scale_by_row(layer, scale, shape) | _description(layer, json.dumps(_DESCRIPTION))


def _rotation(layer: str, group: int) -> dict[str, torch.Tensor]:
    turned = {"convrot": True, "convrot_groupsize": group} if group > 1 else {}
    # Which layers are rotated is known when they are written, and the size of the file before that.
    return _description(layer, json.dumps(_DESCRIPTION | turned).ljust(_LONGEST))


def _description(layer: str, text: str) -> dict[str, torch.Tensor]:
    return {f"{layer}.comfy_quant": torch.tensor(list(text.encode("ascii")), dtype=torch.uint8)}


_FORM = Form("int8", scaling="channel", side_tensors=_described, grid=INT8)
ROTATED_FORM = replace(_FORM, rotation=_rotation)

COMFY_INT8 = Format(
    "comfy-int8",
    form=_FORM,
    rotated_form=ROTATED_FORM,
    dimensions=frozenset({2}),
    takes_channel_scales=True,
    recognizes=lambda layer: layer.dtype == INT8.file_dtype and layer.is_described,
    hint="Opens in ComfyUI's own loaders from 0.27 on, and in HSWQ Loader.",
    how_to_load="ComfyUI opens it with its own loaders from version 0.27 on; *HSWQ Loader* opens it, too.",
)
