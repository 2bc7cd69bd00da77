"""Layers that say what they are, in ``L.comfy_quant``, or in ComfyUI's header ``_quantization_metadata``.

The formats are ComfyUI's (comfy/quant_ops.py and comfy-kitchen) and those of HSWQ's mixed files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...files.decode import KNOWN_FORMATS, LayerDecoder, decode_layer
from ...files.dtypes import is_float
from ...files.layers import WEIGHT
from ...formats.nvfp4 import swizzled_shape, unswizzled
from ...formats.stored_layer import DESCRIPTION, FACTOR, MARKERS, PACKED_BITS, SCALE_SUFFIXES
from ...formats.stored_layer import NVFP4 as NVFP4_NAME
from ...grids.block_scales import BLOCK
from ...rounding.rotation import rotated
from ..kinds import DESCRIBED, unknown
from ..layer import NO_SCALE, QuantizedLayer, granularity
from .stored import StoredTensors, count_in, shape_in

HEADER = "_quantization_metadata"
_MX_BLOCK = 32
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
    try:
        layers = json.loads(metadata.get(HEADER, "{}")).get("layers", {})
    except (ValueError, AttributeError):
        return {}
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
        if described or (said and str(said.get("format")) in DESCRIBED):
            yield _layer(tensors, name, said)


def _of_header(by_header: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """ComfyUI 0.3.75 names layers as the model does, without the prefix of the file."""
    return by_header.get(name) or by_header.get(name.partition("diffusion_model.")[2]) or {}


def _layer(tensors: StoredTensors, name: str, said: dict[str, Any]) -> QuantizedLayer:
    codes, form = name + WEIGHT, str(said.get("format", "no format in its description"))
    side = tensors.beside(name, *_SIDE)
    stored = tensors.left[codes].shape
    kind = DESCRIBED.get(form) or unknown(form)
    values = {
        "name": name,
        "kind": kind,
        "shape": _shape(form, said, stored),
        "codes": codes,
        "side": side,
        "nbytes": tensors.nbytes(codes, *side),
        "group": _group(tensors, name, form, said, stored),
        "exact": said.get("full_precision_matrix_mult") is True,
        "rotation": _rotation(form, said),
        "input_scale": any(key.endswith((".input_scale", ".scale_input")) for key in side),
        "plain_codes": form in KNOWN_FORMATS,
        "largest_code": LARGEST_CODES.get(form, 0.0),
    }
    if form in (*KNOWN_FORMATS, *PACKED_BITS, NVFP4_NAME):
        own = partial(_decoder, tensors, name, stored, form)
        return QuantizedLayer(
            **values, decode=lambda: own().dequantize(tensors.tensor(codes)), scale=lambda: _whole_scale(own())
        )
    others = {"mxfp8": _mxfp8, "convrot_w4a4": _w4a4, "asym_w4a8_int8": _w4a8}
    decode = partial(others[form], tensors, name, said) if form in others and len(stored) == 2 else None
    scales = {"mxfp8": _mx_scale, "convrot_w4a4": _w4a4_scale, "asym_w4a8_int8": _w4a8_scale}
    scale = partial(scales[form], tensors, name, said) if decode is not None else None
    return QuantizedLayer(**values, decode=decode, scale=scale)


def _decoder(tensors: StoredTensors, name: str, stored: tuple[int, ...], form: str) -> LayerDecoder:
    found = decode_layer(tensors.left, tensors.tensor, name, stored, tensors.source.path)
    if found.scale_key is None:  # codes of these formats mean nothing without it
        raise tensors.damaged(f"the scale of the quantized layer {name} is missing")
    return found


def _whole_scale(decoder: LayerDecoder) -> torch.Tensor:
    return decoder.scale.float() * (1.0 if decoder.factor is None else decoder.factor)


def _shape(form: str, said: dict[str, Any], stored: tuple[int, ...]) -> tuple[int, ...]:
    """Of the weight."""
    if form in PACKED_BITS:
        return shape_in(said) or stored
    packed = form in (NVFP4_NAME, "convrot_w4a4", "asym_w4a8_int8") and len(stored) == 2
    return (stored[0], 2 * stored[1]) if packed else stored


def _group(tensors: StoredTensors, name: str, form: str, said: dict[str, Any], stored: tuple[int, ...]) -> str:
    if form in PACKED_BITS:
        return str(said.get("group_size", "unknown"))
    fixed = {NVFP4_NAME: BLOCK, "mxfp8": _MX_BLOCK, "asym_w4a8_int8": _setting(said, "group_size", 16)}
    if form in fixed:
        return str(fixed[form])
    scale = next((tensors.left[key] for key in tensors.beside(name, *SCALE_SUFFIXES)), None)
    if scale is None:
        return NO_SCALE
    return granularity(scale.shape, stored[0], str(said.get("group_size", "blocks")))


def _setting(said: dict[str, Any], key: str, default: int) -> int:
    """A number of the description, or of its ``params``."""
    inner = said.get("params")
    return count_in(said, key, count_in(inner, key, default) if isinstance(inner, dict) else default)


def _rotation(form: str, said: dict[str, Any]) -> int:
    always = form in ("convrot_w4a4", "asym_w4a8_int8")
    return _setting(said, "convrot_groupsize", 256) if always or said.get("convrot") else 1


def _mx_scale(tensors: StoredTensors, name: str, _said: dict[str, Any]) -> torch.Tensor:
    """Powers of two (E8M0), a scale for every 32 columns, in the order of cuBLAS: float32 [C_out, blocks]."""
    rows, columns = tensors.left[name + WEIGHT].shape
    stored = tensors.tensor(name + ".weight_scale")
    blocks = columns // _MX_BLOCK
    if stored.element_size() != 1 or tuple(stored.shape) != swizzled_shape(rows, blocks) or columns % _MX_BLOCK:
        raise tensors.damaged(f"the scales of {name} have the shape {list(stored.shape)}, which does not fit")
    powers = unswizzled(stored.view(torch.uint8), rows, blocks)
    if bool((powers == 255).any()):
        raise tensors.damaged(f"the scale of {name} is not finite")
    return torch.pow(2.0, powers.float() - 127)


def _mxfp8(tensors: StoredTensors, name: str, said: dict[str, Any]) -> torch.Tensor:
    scale = _mx_scale(tensors, name, said)
    return (tensors.tensor(name + WEIGHT).float().unflatten(1, (-1, _MX_BLOCK)) * scale[:, :, None]).flatten(1)


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Two numbers from 0 to 15 of each byte, the low one first: int64 [N, 2 K]."""
    numbers = packed.view(torch.uint8).long()
    return torch.stack([numbers & 15, numbers >> 4], dim=-1).flatten(1)


def _w4a4_scale(tensors: StoredTensors, name: str, _said: dict[str, Any]) -> torch.Tensor:
    rows = tensors.left[name + WEIGHT].shape[0]
    key = name + ".weight_scale"
    return tensors.checked(lambda: tensors.tensor(key), lambda shape: shape in ((rows,), (rows, 1)), name).reshape(
        -1, 1
    )


def _w4a4(tensors: StoredTensors, name: str, said: dict[str, Any]) -> torch.Tensor:
    """Signed 4 bits, a scale for each row, rotated."""
    numbers = _nibbles(tensors.tensor(name + WEIGHT))
    signed = torch.where(numbers > 7, numbers - 16, numbers).float()
    return _turned(tensors, name, signed * _w4a4_scale(tensors, name, said), said)


def _w4a8_scale(tensors: StoredTensors, name: str, said: dict[str, Any]) -> torch.Tensor:
    """Of groups within a row, relative to the row's own: float32 [C_out, groups]."""
    rows, columns = tensors.left[name + WEIGHT].shape[0], 2 * tensors.left[name + WEIGHT].shape[1]
    groups = columns // _setting(said, "group_size", 16)
    relative = tensors.tensor(name + ".weight_s_rel")
    relative = relative.view(torch.float8_e4m3fn) if relative.dtype == torch.uint8 else relative
    found = tensors.checked(lambda: relative, lambda shape: shape == (rows, groups), name)
    own = tensors.checked(lambda: tensors.tensor(name + ".weight_s_channel"), lambda shape: shape == (rows,), name)
    return found * own[:, None]


def _w4a8(tensors: StoredTensors, name: str, said: dict[str, Any]) -> torch.Tensor:
    """Numbers that point into a table, or 0 to 15 less 8; times the group's scale they are whole, as INT8 products
    want them; times the row's scale they are the weight, rotated."""
    scale = _w4a8_scale(tensors, name, said)
    own = tensors.tensor(name + ".weight_s_channel").float()[:, None]
    numbers = _nibbles(tensors.tensor(name + WEIGHT))
    table = name + ".weight_codebook"
    values = numbers.float() - 8
    if table in tensors.left:
        values = tensors.checked(lambda: tensors.tensor(table), lambda shape: shape == (16,), name)[numbers]
    group = numbers.shape[1] // scale.shape[1]
    whole = (values.unflatten(1, (-1, group)) * (scale / own)[:, :, None]).round().clamp(-127, 127) * own[:, :, None]
    added = name + ".weight_correction"
    if added in tensors.left:
        whole = whole + tensors.tensor(added).float().t()[:, :, None]
    return _turned(tensors, name, whole.flatten(1), said)


def _turned(tensors: StoredTensors, name: str, weight: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    group = _setting(said, "convrot_groupsize", 256)
    if weight.shape[1] % group or group not in (4**power for power in range(1, 8)):
        raise tensors.damaged(f"the layer {name} cannot be rotated in groups of {group}")
    return rotated(weight, group)
