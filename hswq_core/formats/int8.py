"""int8, for HSWQ Loader: Linear layers and convolutions; ``L.weight`` is I8, symmetric, with ``L.weight_scale``,
F32 [C_out, 1]; W = W8 * scale.

Where inputs may be rotated, Linear layers also have ``L.weight_rotation``, I32 [1]: W8 * scale is then W with so many
neighbouring columns rotated together, and W itself where it is 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..grids import INT8
from .base import Form, Format, Shape
from .refusal import refusal_header
from .stored_layer import LAYER_DIMENSIONS, ROTATION


def scale_by_row(layer: str, scale: torch.Tensor, _shape: Shape) -> dict[str, torch.Tensor]:
    """The scale as ComfyUI has it for integers."""
    return {f"{layer}.weight_scale": scale.reshape(-1, 1)}


def _rotation(layer: str, group: int) -> dict[str, torch.Tensor]:
    return {layer + ROTATION: torch.tensor([group], dtype=torch.int32)}


INT8_FORM = Form("int8", scaling="channel", side_tensors=scale_by_row, grid=INT8)
ROTATED_INT8_FORM = replace(INT8_FORM, rotation=_rotation)

INT8_FORMAT = Format(
    "int8",
    form=INT8_FORM,
    rotated_form=ROTATED_INT8_FORM,
    dimensions=LAYER_DIMENSIONS,
    takes_channel_scales=True,
    recognizes=lambda layer: layer.dtype == INT8.file_dtype and not layer.is_described,
    hint="Open with HSWQ Loader (ComfyUI-HSWQ).",
    how_to_load="Open it with *HSWQ Loader* of ComfyUI-HSWQ; other loaders refuse it.",
    header=lambda linear: refusal_header("hswq_int8", linear),
)
