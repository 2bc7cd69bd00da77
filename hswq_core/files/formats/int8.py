"""Integers: ``L.weight`` is I8, symmetric, with ``L.weight_scale``, F32 [C_out, 1]; W = W8 * scale.

``int8`` holds Linear layers and convolutions for HSWQ Loader. ``comfy-int8`` holds Linear layers as ComfyUI's own
loaders read them from version 0.27 on; they then quantize the layers' inputs, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import torch

from ...grids import INT8
from ..layers import LAYER_DIMENSIONS
from .base import Format

_DESCRIPTION = {"format": "int8_tensorwise"}
_LONGEST = len(json.dumps(_DESCRIPTION | {"convrot": True, "convrot_groupsize": 256}))


def _scale(layer: str, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{layer}.weight_scale": scale.reshape(-1, 1)}


def _described(layer: str, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    return _scale(layer, scale) | _description(layer, json.dumps(_DESCRIPTION))


def _rotation(layer: str, group: int) -> dict[str, torch.Tensor]:
    turned = {"convrot": True, "convrot_groupsize": group} if group > 1 else {}
    # Which layers are rotated is known when they are written, and the size of the file before that.
    return _description(layer, json.dumps(_DESCRIPTION | turned).ljust(_LONGEST))


def _description(layer: str, text: str) -> dict[str, torch.Tensor]:
    return {f"{layer}.comfy_quant": torch.tensor(list(text.encode("ascii")), dtype=torch.uint8)}


def _refuse(linear: Sequence[str]) -> dict[str, str]:
    """A format that ComfyUI's own loaders do not know, told of one layer: they stop, where without they draw noise."""
    if not linear:
        return {}
    # Some versions name a layer as the file does, others as the model does.
    names = {linear[0], linear[0].partition("diffusion_model.")[2] or linear[0]}
    layers = {name: {"format": "hswq_int8"} for name in sorted(names)}
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


INT8_FORMAT = Format(
    "int8", scaling="channel", dimensions=LAYER_DIMENSIONS, per_channel=True, side_tensors=_scale, grid=INT8,
    header=_refuse,
)  # fmt: skip
COMFY_INT8 = Format(
    "comfy-int8", scaling="channel", dimensions=frozenset({2}), per_channel=True, side_tensors=_described, grid=INT8
)
COMFY_INT8_ROTATED = replace(COMFY_INT8, rotation=_rotation)
