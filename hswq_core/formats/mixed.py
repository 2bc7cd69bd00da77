"""mixed, for HSWQ Loader: every layer in 2 to 6 or 8 bits, or as it was.

Layers in 8 bits are those of int8. In fewer ``L.weight`` is U8 (``packing.py``) and ``L.weight_scale`` F16
[C_out, groups], a scale for every 64 columns of the flattened weight; the last group may be shorter. ``L.comfy_quant``
says which and of what shape: {"format": "hswq_int4", "group_size": 64, "shape": [C_out, C_in, kH, kW]}.
"""

from __future__ import annotations

import json

import torch

from ..grids import INT2, INT3, INT4, INT5, INT6, Grid
from ..grids.group_scales import GROUP
from .base import Form, Format, Shape
from .int8 import INT8_FORM
from .refusal import refusal_header, refusing_tensors
from .stored_layer import LAYER_DIMENSIONS, PACKED_BITS


def _packed(bits: int, grid: Grid) -> Form:
    name = next(name for name, known in PACKED_BITS.items() if known == bits)

    def side_tensors(layer: str, scale: torch.Tensor, shape: Shape) -> dict[str, torch.Tensor]:
        description = json.dumps({"format": name, "group_size": GROUP, "shape": list(shape)})
        return {
            f"{layer}.weight_scale": scale,
            f"{layer}.comfy_quant": torch.tensor(list(description.encode("ascii")), dtype=torch.uint8),
        }

    return Form(f"int{bits}", scaling="group", side_tensors=side_tensors, grid=grid, bits=bits)


# 2 and 3 bits pay in the smallest files alone: where there are bytes for 4, few layers have less.
_PACKED_FORMS = (_packed(2, INT2), _packed(3, INT3), _packed(4, INT4), _packed(5, INT5), _packed(6, INT6))

MIXED = Format(
    "mixed",
    form=INT8_FORM,
    menu=(*_PACKED_FORMS, INT8_FORM),
    made_of=frozenset({"int8"}),
    dimensions=LAYER_DIMENSIONS,
    takes_channel_scales=True,
    recognizes=lambda layer: layer.dtype == INT4.file_dtype and layer.is_described,
    hint="Open with HSWQ Loader (ComfyUI-HSWQ).",
    how_to_load="Open it with *HSWQ Loader* of ComfyUI-HSWQ; other loaders refuse it.",
    holds_text_encoders=True,
    is_target=False,
    header=lambda linear: refusal_header("hswq_mixed", linear),
    # Packed weights have other shapes, by which ComfyUI tells models: it would fail without a reason.
    extra_tensors=lambda: refusing_tensors("hswq_mixed"),
)
