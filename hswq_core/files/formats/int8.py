"""Integers: ``L.weight`` is I8, symmetric, with ``L.weight_scale``, F32 [C_out, 1]; W = W8 * scale.

``int8`` holds Linear layers and convolutions for HSWQ Loader. ``comfy-int8`` holds Linear layers as ComfyUI's own
loaders read them from version 0.27 on; they then quantize the layers' inputs, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from ...grids import INT8
from ..layers import LAYER_DIMENSIONS
from .base import Format

_DESCRIPTION = json.dumps({"format": "int8_tensorwise"}).encode("ascii")


def _scale(layer: str, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{layer}.weight_scale": scale.reshape(-1, 1)}


def _described(layer: str, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    description = torch.tensor(list(_DESCRIPTION), dtype=torch.uint8)
    return _scale(layer, scale) | {f"{layer}.comfy_quant": description}


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
