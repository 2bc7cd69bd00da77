"""Where the parts of a quantized layer stand in a file, as its header tells."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

FP8_DTYPES = ("F8_E4M3", "F8_E5M2")
QUANTIZED_DTYPES = (*FP8_DTYPES, "I8")
"""What the weights of quantized layers are; integers mean nothing without a scale."""
PACKED_DTYPE = "U8"
"""What the weights of layers in fewer bits are, where a description stands beside them."""
PACKED_BITS = {"hswq_int2": 2, "hswq_int3": 3, "hswq_int4": 4, "hswq_int5": 5, "hswq_int6": 6}
"""Bits of a code by the name of the format in the description."""
NVFP4 = "nvfp4"
"""In the description of layers in 4-bit floats with a scale for every block of 16 columns."""
LAYER_DIMENSIONS = frozenset({2, 3, 4, 5})
"""Of weights: Linear, and convolutions over one, two or three dimensions."""
SCALE_SUFFIXES = (".scale", ".weight.scale", ".weight_scale", ".scale_weight")
"""Names of scales: V2's (two spellings), ComfyUI's own, and that of the older scaled_fp8."""
DESCRIPTION = ".comfy_quant"
"""Beside a layer, JSON as U8: the format that it is quantized in, and what else a reader must know of it."""
FACTOR = ".weight_scale_2"
"""Beside layers whose scales are of blocks: what all of them are multiplied with."""
ROTATION = ".weight_rotation"
"""Beside a layer in int8, how many of its columns are rotated together; 1 is none."""
MARKERS = (DESCRIPTION, FACTOR, ROTATION, ".input_scale", ".scale_input")
"""What stands beside a layer and means nothing without it. Some steers the FP8 code of other formats alone."""


@dataclass(frozen=True)
class StoredLayer:
    """A quantized layer in a file.

    Attributes:
        name: its key without ``.weight``.
        dtype: of its weight, by its name in safetensors files.
        shape: of its weight.
        suffix: of its scale's key; empty where it has no scale.
        is_described: whether there is a description beside it.
        is_in_blocks: whether its scales are those of blocks, with a factor beside them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    suffix: str
    is_described: bool
    is_in_blocks: bool = False


def stored_layer(keys: Container[str], name: str, dtype: str, shape: tuple[int, ...]) -> StoredLayer:
    """Find what stands beside a quantized weight.

    Ask only for layers whose weight is quantized: a norm's own ``.scale`` parameter is not a quantization scale.
    """
    suffix = next((suffix for suffix in SCALE_SUFFIXES if name + suffix in keys), "")
    return StoredLayer(name, dtype, shape, suffix, name + DESCRIPTION in keys, name + FACTOR in keys)


def is_quantized(keys: Container[str], name: str, dtype: str) -> bool:
    """Whether a weight is quantized, by its type and what stands beside it."""
    return dtype in QUANTIZED_DTYPES or (dtype == PACKED_DTYPE and name + DESCRIPTION in keys)


def stray_tensor(keys: Container[str], layer: str) -> str:
    """A tensor beside an unquantized layer that readers would take for its scale, were it quantized; or nothing."""
    return next((suffix for suffix in (*SCALE_SUFFIXES, *MARKERS) if layer + suffix in keys), "")
