"""ComfyUI's own loaders, as the sources of two versions have it and as was seen in servers of both.

0.3.75 (December 2025) knows FP8 with one scale, by the header ``_quantization_metadata``, which names layers as the
model does. 0.33 (August 2026) goes by ``L.comfy_quant``, into which it turns that header and the older ``scaled_fp8``.
Both have quantized Linear layers alone: a convolution's codes are taken for weights, and so are codes without a
description.
"""

from __future__ import annotations

from ...files.layers import WEIGHT
from ...formats.comfy_mixed import NVFP4_FORM, is_told_by_width
from ...formats.refusal import is_refusal
from ...formats.stored_layer import DESCRIPTION
from ...grids.block_scales import BLOCK
from ...words import listed
from ..contents import Contents
from ..kinds import (
    BNB_INT8,
    COMFY_E5M2,
    COMFY_FP8,
    DESCRIBED,
    FP8,
    FP8_E5M2,
    INT8,
    NVFP4,
    SCALED_FP8,
    V2,
    W4A4,
    W4A8,
    WEIGHT_SCALE_FP8,
)
from ..layer import CHANNEL, QuantizedLayer
from ..readers.described import HEADER, REQUIRED
from .opening import HSWQ_LOADER, Opening, Outcome, worst
from .others import LOADERS

OLD, NEW = "ComfyUI 0.3.75", "ComfyUI 0.33"
_WITHOUT_SCALES = (FP8, FP8_E5M2)
_OPENS: tuple[Outcome, str] = ("opens", "")
_OTHER_SCALES = (V2, WEIGHT_SCALE_FP8, INT8, BNB_INT8)
_OF_DIFFUSERS = ("transformer_blocks.", "single_transformer_blocks.", "down_blocks.", "mid_block.", "up_blocks.")
"""Names of layers by which ComfyUI does not tell a model whose layers are quantized."""
_OTHER_SHAPES = (NVFP4, W4A4, W4A8)
_OURS = f"Open it with {HSWQ_LOADER}"
_AGAIN = "Quantize the original again"
_WHAT_ITS_PUBLISHER_NAMES = "Open it with what its publisher names"


def stock_loader(contents: Contents, version: str, *, ours_opens: bool) -> Opening:
    """What comes of *Load Checkpoint* or *Load Diffusion Model* (of text encoders, *Load CLIP*).

    Args: ours_opens: whether HSWQ Loader opens the file, for the remedy.
    """
    if contents.container == "gguf":
        return Opening(version, "refuses", "it has no reader of GGUF", _by_others("gguf"))
    refused = _refused_by_name(contents, version)
    if refused:
        return Opening(version, "refuses", refused, _OURS if ours_opens else _AGAIN)
    read = _by_old if version == OLD else _by_new
    lone = next((name for name in contents.kept if name + DESCRIPTION in contents.tensors), None)
    if lone is not None and version == NEW:
        why = f"the weight of {lone} is not quantized, and its description makes codes of it"
        return Opening(version, "noise", why, _AGAIN)
    found = [read(contents, layer) for layer in _in_parts(contents)]
    outcome, reason = worst(found)
    if outcome == "opens":
        return Opening(version, "opens")
    culprit = next(layer for layer, each in zip(_in_parts(contents), found, strict=True) if each == (outcome, reason))
    count = found.count((outcome, reason))
    return Opening(version, outcome, f"{reason} ({_named(culprit, count)})", _remedy(culprit, version, ours_opens))


def _in_parts(contents: Contents) -> list[QuantizedLayer]:
    return [layer for layer in contents.layers.values() if contents.part_of(layer.name) is not None]


def _named(layer: QuantizedLayer, count: int) -> str:
    return layer.name if count == 1 else f"{count} layers, the first is {layer.name}"


def _remedy(layer: QuantizedLayer, version: str, ours_opens: bool) -> str:
    if ours_opens:
        return _OURS
    if layer.kind.family == "comfy" and version == OLD and not layer.is_convolution:
        return f"Update it to {NEW.removeprefix('ComfyUI ')}"
    return _AGAIN if layer.kind.family in ("fp8", "hswq", "comfy") else _by_others(layer.kind.family)


def _by_others(family: str) -> str:
    return f"Open it with {listed(LOADERS[family], 'or')}" if family in LOADERS else _WHAT_ITS_PUBLISHER_NAMES


def _refused_by_name(contents: Contents, version: str) -> str:
    """Why a file is refused as a whole; empty if it is not."""
    if any(is_refusal(key, info.shape) for key, info in contents.tensors.items()):
        return "tensors in it stop stock loaders, by an error that names HSWQ"
    known = (COMFY_FP8.name,) if version == OLD else tuple(k.name for k in DESCRIBED.values() if k.family == "comfy")
    for said in contents.said_by_header.values():
        if str(said.get("format")) not in known:
            name = str(said.get("format")).partition(":")[0]  # ours goes on with what to do
            return f"its header names the format {name}, which {version} does not know"
    return ""


def _by_both(contents: Contents, layer: QuantizedLayer) -> tuple[Outcome, str] | None:
    """What both versions do with FP8 and integers that no description tells of; ``None`` for other kinds."""
    if layer.kind in _WITHOUT_SCALES:
        return _OPENS
    if layer.kind in _OTHER_SCALES:
        return "noise", "it does not know these scales and takes codes for weights"
    if layer.kind != SCALED_FP8:
        return None
    if not layer.name.startswith(contents.marks):
        return "noise", "without the tensor scaled_fp8 it does not see .scale_weight"
    return ("noise", "it does not scale convolutions") if layer.is_convolution else _OPENS


def _by_new(contents: Contents, layer: QuantizedLayer) -> tuple[Outcome, str]:
    kind, described = layer.kind, layer.name + DESCRIPTION in contents.tensors
    if (found := _by_both(contents, layer)) is not None:
        if kind == SCALED_FP8 and found == _OPENS and contents.tensors[layer.codes].dtype == "F8_E5M2":
            return "noise", "it takes all codes of scaled_fp8 for E4M3, and these are E5M2"
        return found
    if kind.family != "comfy":
        return (
            ("refuses", f"it does not know the format of {kind.label}") if described else _unreadable(contents, layer)
        )
    if any(layer.name + part not in contents.tensors for part in REQUIRED.get(kind.name, ())):
        return "refuses", f"a scale of the format {kind.name} is missing"
    if layer.is_convolution:
        return ("refuses" if kind in _OTHER_SHAPES else "noise"), "it has no quantized convolutions"
    if not described and layer.name not in contents.said_by_header:
        return "noise", f"{HEADER} names layers without the prefix that they have in this file"
    if kind in (COMFY_FP8, COMFY_E5M2) and _is_flat(contents, layer):
        return "fails", "it takes FP8 scales by channel as [C_out, 1], and these are [C_out]"
    if contents.tensors[layer.codes].shape != layer.shape and is_told_by_width(contents.path_of(layer.name)):
        return "refuses", "packing changes a shape by which it tells models"
    return _OPENS


def _by_old(contents: Contents, layer: QuantizedLayer) -> tuple[Outcome, str]:
    kind, described = layer.kind, layer.name + DESCRIPTION in contents.tensors
    if (found := _by_both(contents, layer)) is not None:
        return found
    same_shape = contents.tensors[layer.codes].shape == layer.shape
    if kind.family == "comfy" and not same_shape:
        return "refuses", "packed weights have other shapes than it expects"
    if kind == COMFY_FP8 and not layer.is_convolution and contents.path_of(layer.name) in contents.said_by_header:
        return _OPENS
    if kind.family == "comfy" or (described and kind.family == "unknown" and same_shape):
        what = "comfy_quant" if described else f"this {HEADER}"
        return "noise", f"it does not read {what} and takes codes for weights"
    return _unreadable(contents, layer)


def _unreadable(contents: Contents, layer: QuantizedLayer) -> tuple[Outcome, str]:
    """A layer that neither version reads: it is missing, or has another shape."""
    path = contents.path_of(layer.name)
    if layer.kind.family == "unknown":
        return "unknown", f"the format is not known here: {layer.kind.label}"
    # Of a UNet's transformers, proj_in tells whether they have Linear layers or convolutions.
    is_looked_at = path.startswith(_OF_DIFFUSERS) or path.endswith(".1.proj_in")
    is_looked_at = is_looked_at or not NVFP4_FORM.holds(path, (BLOCK, BLOCK))
    if layer.codes.endswith(WEIGHT) or is_looked_at:
        return "refuses", f"it does not know {layer.kind.label}"
    return "noise", f"it does not know {layer.kind.label}, and goes on without these weights"


def _is_flat(contents: Contents, layer: QuantizedLayer) -> bool:
    """Whether scales by channel have one dimension, which are multiplied along the columns."""
    return layer.group == CHANNEL and any(
        key.endswith(".weight_scale") and len(contents.tensors[key].shape) == 1 for key in layer.side
    )
