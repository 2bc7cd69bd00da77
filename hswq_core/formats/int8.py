"""int8, for HSWQ Loader: Linear layers and convolutions; ``L.weight`` is I8, symmetric, with ``L.weight_scale``,
F32 [C_out, 1]; W = W8 * scale.
"""

from __future__ import annotations

import torch

from ..grids import INT8
from .base import Form, Format, Shape
from .refusal import refusal_header
from .stored_layer import LAYER_DIMENSIONS


def scale_by_row(layer: str, scale: torch.Tensor, _shape: Shape) -> dict[str, torch.Tensor]:
    """The scale as ComfyUI has it for integers."""
    return {f"{layer}.weight_scale": scale.reshape(-1, 1)}


INT8_FORM = Form("int8", scaling="channel", side_tensors=scale_by_row, grid=INT8)

INT8_FORMAT = Format(
    "int8",
    form=INT8_FORM,
    dimensions=LAYER_DIMENSIONS,
    takes_channel_scales=True,
    recognizes=lambda layer: layer.dtype == INT8.file_dtype and not layer.is_described,
    hint="Open with HSWQ Loader (ComfyUI-HSWQ).",
    how_to_load="Open it with *HSWQ Loader* of ComfyUI-HSWQ; other loaders refuse it.",
    header=lambda linear: refusal_header("hswq_int8", linear),
)
