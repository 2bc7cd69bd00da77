"""Layers whose weight is FP8 or INT8 with a scale beside it or none, and all that is left: named, if not known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from ...files.dtypes import is_float
from ...files.layers import WEIGHT
from ...files.source import TensorInfo
from ...formats.refusal import is_refusal
from ...formats.stored_layer import FP8_DTYPES, LAYER_DIMENSIONS, MARKERS, ROTATION, SCALE_SUFFIXES
from ..kinds import FP8, FP8_E5M2, INT8, SCALED_FP8, V2, WEIGHT_SCALE_FP8, Kind, unknown
from ..layer import NO_SCALE, QuantizedLayer, granularity
from .stored import StoredTensors, has_input_scale

_BY_SUFFIX = {".scale": V2, ".weight.scale": V2, ".scale_weight": SCALED_FP8, ".weight_scale": WEIGHT_SCALE_FP8}
MARK = "scaled_fp8"
"""Of files with ``.scale_weight``: an empty tensor, or of two elements where inputs are not to be rounded."""
_INTEGERS = ("U8", "I8", "I16", "I32", "I64")
_LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0, "I8": 127.0}


def read(tensors: StoredTensors) -> Iterator[QuantizedLayer]:
    """What other readers have left."""
    exact = [key[: -len(MARK)] for key, info in tensors.left.items() if key.endswith(MARK) and info.numel == 2]
    for name in tensors.with_suffix(WEIGHT):
        info = tensors.left[name + WEIGHT]
        if is_float(info.dtype) or len(info.shape) not in LAYER_DIMENSIONS or is_refusal(name + WEIGHT, info.shape):
            continue
        scale = next(iter(tensors.beside(name, *SCALE_SUFFIXES)), "")
        suffix = scale[len(name) :]
        kind = _kind(tensors, name, info, suffix)
        side = tensors.beside(name, *SCALE_SUFFIXES, *MARKERS)
        layer = QuantizedLayer(
            name, kind, info.shape, name + WEIGHT, side, tensors.nbytes(name + WEIGHT, *side),
            _group(tensors, scale, info.shape),
            largest_code=_LARGEST.get(info.dtype, 0.0) if suffix else 0.0,
            plain_codes=info.dtype in (*FP8_DTYPES, "I8"),
            exact=suffix == ".scale_weight" and any(name.startswith(prefix) for prefix in exact),
            rotation=_rotation(tensors, name),
            input_scale=has_input_scale(side),
        )  # fmt: skip
        yield layer if kind.family == "unknown" else _readable(tensors, layer, bool(suffix) or info.dtype == "I8")


def _kind(tensors: StoredTensors, name: str, info: TensorInfo, suffix: str) -> Kind:
    if info.dtype in FP8_DTYPES:
        return _BY_SUFFIX[suffix] if suffix else (FP8 if info.dtype == "F8_E4M3" else FP8_E5M2)
    if info.dtype == "I8" and suffix in (".weight_scale", ""):
        return INT8
    others = sorted(set(tensors.children.get(name, [])) - {"weight", "bias"})
    return unknown(f"{info.dtype} with {', '.join(others)}" if others else f"{info.dtype} alone")


def _readable(tensors: StoredTensors, layer: QuantizedLayer, scaled: bool) -> QuantizedLayer:
    """The layer with its readers. Args: scaled: whether codes mean nothing without a scale."""

    decoder = partial(tensors.decoder, layer.name, layer.shape, scaled=scaled)

    def decode() -> torch.Tensor:
        return decoder().dequantize(tensors.tensor(layer.codes))

    return replace(layer, decode=decode, scale=(lambda: decoder().scale.float()) if scaled else None)


def _group(tensors: StoredTensors, scale: str, shape: tuple[int, ...]) -> str:
    if not scale:
        return NO_SCALE
    return granularity(tensors.left[scale].shape, shape[0], "blocks")


def _rotation(tensors: StoredTensors, name: str) -> int:
    """1 for what is not one number, too: whatever decodes the layer says what is wrong with it."""
    info = tensors.left.get(name + ROTATION)
    if info is None or info.numel != 1 or info.dtype not in _INTEGERS:
        return 1
    return int(tensors.tensor(name + ROTATION).flatten()[0])
