"""The text encoders of a checkpoint, or of a file of their own: layers that are quantized by their weights alone."""

from __future__ import annotations

import re

from .dtypes import is_float
from .layers import WEIGHT
from .source import TensorInfo, TensorSource

TEXT_ENCODERS = ("conditioner.", "cond_stage_model.", "text_encoders.")
"""Where text encoders begin in a checkpoint."""
# Tables that are looked up, and what is small: nothing multiplies with the first, nothing is saved on the second.
_NO_LAYER = re.compile(r"(^|\.)(\w*embeddings?|embed_\w+|shared|wte|relative_attention_bias|\w*projection)\.")


def text_encoder_layers(source: TensorSource, *, alone: bool) -> dict[str, TensorInfo]:
    """The weights of Linear layers, by the layer's name in the file.

    Args:
        alone: whether the file is nothing but a text encoder.
    """
    begin = ("",) if alone and not any(key.startswith(TEXT_ENCODERS) for key in source.tensors) else TEXT_ENCODERS
    return {
        key.removesuffix(WEIGHT): info
        for key, info in source.tensors.items()
        if key.startswith(begin)
        and key.endswith(WEIGHT)
        and len(info.shape) == 2
        and is_float(info.dtype)
        and not _NO_LAYER.search(key)
    }
