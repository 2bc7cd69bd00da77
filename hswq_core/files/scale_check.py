"""Whether the scales in a file fit its quantized weights, by its header."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..errors import CheckpointError
from ..formats import FORMATS
from ..formats.stored_layer import (
    FP8_DTYPES,
    LAYER_DIMENSIONS,
    PACKED_DTYPE,
    SCALE_SUFFIXES,
    is_quantized,
    stored_layer,
)
from .dtypes import is_float
from .layers import WEIGHT
from .source import TensorInfo, TensorSource

_REMEDY = "The file is damaged or was changed; quantize the model again"


def check_scales(source: TensorSource, prefix: str) -> None:
    """Every quantized weight has a scale if its type, the others or the file's mode say so, and every scale a weight.

    Errors: CheckpointError naming the layer.
    """
    tensors = {key: info for key, info in source.tensors.items() if key.startswith(prefix)}
    stored = {
        (layer := key.removesuffix(WEIGHT)): stored_layer(tensors, layer, info.dtype, info.shape)
        for key, info in tensors.items()
        if key.endswith(WEIGHT) and is_quantized(tensors, key.removesuffix(WEIGHT), info.dtype)
    }
    said = FORMATS.get(source.metadata.get("hswq.mode", ""))
    if said is not None and said.menu:
        codes = (key for key, i in tensors.items() if i.dtype == PACKED_DTYPE and len(i.shape) == 2)
        lost = [key for key in codes if key.endswith(WEIGHT) and key.removesuffix(WEIGHT) not in stored]
        if lost:
            what = f"the description of the quantized layer {lost[0].removesuffix(WEIGHT)} is missing"
            raise CheckpointError(what, where=source.path, remedy=_REMEDY)
    without = sorted(name for name, layer in stored.items() if not layer.suffix)
    integers = [name for name in without if stored[name].dtype not in FP8_DTYPES]
    is_scaled = said is not None and said.form.scaling != "none"
    if integers or (without and (len(without) < len(stored) or is_scaled)):
        missing = (integers or without)[0]
        raise CheckpointError(
            f"the scale of the quantized layer {missing} is missing", where=source.path, remedy=_REMEDY
        )
    orphan = next((key for key in tensors if _is_orphan(key, tensors, stored)), None)
    if orphan is not None:
        raise CheckpointError(f"the scale {orphan} belongs to no quantized weight", where=source.path, remedy=_REMEDY)


def _is_orphan(key: str, tensors: Mapping[str, TensorInfo], quantized: Mapping[str, object]) -> bool:
    """Whether a tensor is a scale without the weight that it would be multiplied with."""
    suffix = next((s for s in sorted(SCALE_SUFFIXES, key=len, reverse=True) if key.endswith(s)), None)
    layer = key.removesuffix(suffix or "")
    if suffix is None or layer in quantized:
        return False
    beside = tensors.get(layer + WEIGHT)
    if beside is None:
        return suffix != ".scale"  # a norm has a parameter of this name, and no weight
    # Layers quantized to other types have scales, too.
    if not is_float(beside.dtype) or len(beside.shape) not in LAYER_DIMENSIONS:
        return False
    return suffix != ".scale" or math.prod(tensors[key].shape) in (1, beside.shape[0])
