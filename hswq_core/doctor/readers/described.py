"""Layers that say what they are, in ``L.comfy_quant``, or in ComfyUI's header ``_quantization_metadata``.

The formats are ComfyUI's (``comfy/quant_ops.py``) and those of HSWQ's mixed files. What HSWQ reads itself is read as
everywhere in it; other layouts are in ``comfy_layouts.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ...files.decode import KNOWN_FORMATS, LayerDecoder
from ...files.dtypes import is_float
from ...files.layers import WEIGHT
from ...formats.packing import packed_columns
from ...formats.stored_layer import DESCRIPTION, FACTOR, LAYER_DIMENSIONS, MARKERS, PACKED_BITS, SCALE_SUFFIXES
from ...formats.stored_layer import NVFP4 as NVFP4_NAME
from ...grids.block_scales import BLOCK
from ..json_text import parsed
from ..kinds import DESCRIBED, unknown
from ..layer import NO_SCALE, QuantizedLayer, granularity
from .comfy_layouts import LAYOUTS, MX_BLOCK, setting
from .stored import StoredTensors, has_input_scale, shape_in, size_in

HEADER = "_quantization_metadata"
_W4A8_PARTS = (".weight_s_rel", ".weight_s_channel", ".weight_codebook", ".weight_correction")
_SIDE = (*SCALE_SUFFIXES, *MARKERS, *_W4A8_PARTS, ".pre_quant_scale")
REQUIRED = {
    "float8_e4m3fn": (".weight_scale",), "float8_e5m2": (".weight_scale",), "int8_tensorwise": (".weight_scale",),
    NVFP4_NAME: (".weight_scale", FACTOR), "mxfp8": (".weight_scale",), "convrot_w4a4": (".weight_scale",),
    "asym_w4a8_int8": (".weight_s_rel", ".weight_s_channel"), **dict.fromkeys(PACKED_BITS, (".weight_scale",)),
}  # fmt: skip
"""What must stand beside the codes of a format."""
LARGEST_CODES = {
    "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0, "int8_tensorwise": 127.0, NVFP4_NAME: 6.0, "mxfp8": 448.0,
    "convrot_w4a4": 7.0, **{name: float(2 ** (bits - 1) - 1) for name, bits in PACKED_BITS.items()},
}  # fmt: skip


def formats_of_header(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What ComfyUI's header says of layers, by name; empty where it says nothing that can be read."""
    whole = parsed(metadata.get(HEADER, "{}"))
    layers = whole.get("layers") if isinstance(whole, dict) else None
    said = layers.items() if isinstance(layers, dict) else ()
    return {name: each for name, each in said if isinstance(each, dict)}


def read(tensors: StoredTensors) -> Iterator[QuantizedLayer]:
    """Layers with a description."""
    by_header = formats_of_header(tensors.source.metadata)
    for name in tensors.matrices(WEIGHT):
        if is_float(tensors.left[name + WEIGHT].dtype):
            continue  # its description was left behind
        described = name + DESCRIPTION in tensors.left
        said = tensors.said(name + DESCRIPTION) if described else _of_header(by_header, name)
        # The header of HSWQ's own files names a layer only to be refused; its tensors say what it is.
        if described or (said and _form(said) in DESCRIBED):
            yield _layer(tensors, name, said)


def _of_header(by_header: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """ComfyUI 0.3.75 names layers as the model does, without the prefix of the file."""
    return by_header.get(name) or by_header.get(name.partition("diffusion_model.")[2]) or {}


def _form(said: dict[str, Any]) -> str:
    form = said.get("format")
    return form if isinstance(form, str) else "no format in its description"


def _layer(tensors: StoredTensors, name: str, said: dict[str, Any]) -> QuantizedLayer:
    codes, form = name + WEIGHT, _form(said)
    side = tensors.beside(name, *_SIDE)
    stored = tensors.left[codes].shape
    kind = DESCRIBED.get(form) or unknown(form)
    layer = QuantizedLayer(
        name, kind, _shape(form, said, stored), codes, side, tensors.nbytes(codes, *side),
        _group(tensors, name, form, said, stored),
        largest_code=LARGEST_CODES.get(form, 0.0),
        plain_codes=form in KNOWN_FORMATS,
        exact=said.get("full_precision_matrix_mult") is True,
        rotation=_rotation(form, said),
        input_scale=has_input_scale(side),
    )  # fmt: skip
    if form in (*KNOWN_FORMATS, *PACKED_BITS, NVFP4_NAME):
        own = partial(tensors.decoder, name, stored)
        return replace(layer, decode=lambda: own().dequantize(tensors.tensor(codes)), scale=lambda: _whole_scale(own()))
    if form in LAYOUTS and len(stored) == 2:
        weight, scale = LAYOUTS[form]
        return replace(layer, decode=partial(weight, tensors, name, said), scale=partial(scale, tensors, name, said))
    return layer


def _whole_scale(decoder: LayerDecoder) -> torch.Tensor:
    return decoder.scale.float() * (1.0 if decoder.factor is None else decoder.factor)


def _shape(form: str, said: dict[str, Any], stored: tuple[int, ...]) -> tuple[int, ...]:
    """Of the weight."""
    if form in PACKED_BITS:
        shape = shape_in(said)
        fits = len(shape) in LAYER_DIMENSIONS and stored == (
            shape[0], packed_columns(math.prod(shape[1:]), PACKED_BITS[form]),
        )  # fmt: skip
        return shape if fits else stored
    packed = form in (NVFP4_NAME, "convrot_w4a4", "asym_w4a8_int8") and len(stored) == 2
    return (stored[0], 2 * stored[1]) if packed else stored


def _group(tensors: StoredTensors, name: str, form: str, said: dict[str, Any], stored: tuple[int, ...]) -> str:
    if form in PACKED_BITS:
        return size_in(said, "group_size", "unknown")
    fixed = {NVFP4_NAME: BLOCK, "mxfp8": MX_BLOCK, "asym_w4a8_int8": setting(said, "group_size", 16)}
    if form in fixed:
        return str(fixed[form])
    scale = next((tensors.left[key] for key in tensors.beside(name, *SCALE_SUFFIXES)), None)
    if scale is None:
        return NO_SCALE
    return granularity(scale.shape, stored[0], size_in(said, "group_size", "blocks"))


def _rotation(form: str, said: dict[str, Any]) -> int:
    always = form in ("convrot_w4a4", "asym_w4a8_int8")
    return setting(said, "convrot_groupsize", 256) if always or said.get("convrot") else 1
