"""comfy-mixed: every Linear layer in 4 or 8 bits or as it was, as ComfyUI's own loaders read them from 0.33 on.

Layers in 8 bits are those of comfy-int8, rotated where that is better; ComfyUI rounds their inputs, too. In 4 bits they
are NVFP4 (``nvfp4.py``): ``L.weight`` U8 [C_out, C_in / 2], ``L.weight_scale`` E4M3, ``L.weight_scale_2`` F32 [], and
``L.comfy_quant``. These are multiplied out before they are used, and inputs stay as they are.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import torch

from ..grids import E2M1
from ..grids.block_scales import BLOCK, stored_scales
from .base import Form, Format, Shape
from .comfy_int8 import COMFY_INT8, ROTATED_FORM
from .nvfp4 import swizzled
from .stored_layer import DESCRIPTION, FACTOR, NVFP4

# Without the flag a CPU raises an error, and cards with FP4 arithmetic round the layer's inputs to 4 bits.
_DESCRIPTION = json.dumps({"format": NVFP4, "full_precision_matrix_mult": True}).encode("ascii")
_IN_A_BLOCK = re.compile(r"\.\d+\..*[a-z_]{2}")
_TOLD_BY_WIDTH = re.compile(r"^label_emb\.0\.0$|\.0\.(attn2\.to_k|norm1\.linear|self_attn\.to_qkv|channelwise\.0)$")
"""Layers by whose input width ComfyUI tells model families apart: all such inside of blocks."""


def nvfp4_tensors(layer: str, scales: torch.Tensor, factor: float) -> dict[str, torch.Tensor]:
    """What stands beside the codes of NVFP4.

    Args:
        scales: E4M3 [C_out, blocks].
        factor: what they are multiplied with.
    """
    return {
        f"{layer}.weight_scale": swizzled(scales),
        layer + FACTOR: torch.tensor(factor, dtype=torch.float32),
        layer + DESCRIPTION: torch.tensor(list(_DESCRIPTION), dtype=torch.uint8),
    }


def _beside(layer: str, scale: torch.Tensor, _shape: Shape) -> dict[str, torch.Tensor]:
    return nvfp4_tensors(layer, *stored_scales(scale))


def _fits_blocks(layer: str, shape: Shape) -> bool:
    """Whether a weight has no part of a block, and ComfyUI does not look at its shape, which packing changes.

    It looks at layers before and after the blocks, such as those that embed the text, and at few of the first block.
    """
    whole = len(shape) == 2 and not any(size % BLOCK for size in shape)
    return whole and bool(_IN_A_BLOCK.search(layer)) and not is_told_by_width(layer)


def is_told_by_width(layer: str) -> bool:
    """Whether ComfyUI tells models by the width of this layer's inputs, given its path in the diffusion model."""
    return _TOLD_BY_WIDTH.search(layer) is not None


NVFP4_FORM = Form(NVFP4, scaling="block", side_tensors=_beside, grid=E2M1, bits=4, holds=_fits_blocks)
INTEGER_PRODUCT = replace(
    ROTATED_FORM, name="int8_tensorwise", integer_product=True, holds=lambda _layer, shape: len(shape) == 2
)

COMFY_MIXED = Format(
    "comfy-mixed",
    form=INTEGER_PRODUCT,
    menu=(NVFP4_FORM, INTEGER_PRODUCT),
    made_of=frozenset({COMFY_INT8.name}),
    dimensions=frozenset({2}),
    takes_channel_scales=True,
    recognizes=lambda layer: layer.dtype == E2M1.file_dtype and layer.is_described and layer.is_in_blocks,
    hint="Opens in ComfyUI's own loaders from 0.33 on, and in HSWQ Loader.",
    how_to_load="ComfyUI opens it with its own loaders from version 0.33 on; *HSWQ Loader* opens it there and in older "
    "versions.",
    is_target=False,
)
