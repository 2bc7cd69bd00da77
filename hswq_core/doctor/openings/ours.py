"""HSWQ Loader: its own checks of a file, made here as it makes them."""

from __future__ import annotations

from ...errors import CheckpointError
from ...files.decode import decode_layer
from ...files.dtypes import is_float
from ...files.layers import WEIGHT
from ...files.scale_check import check_scales
from ...formats.refusal import is_refusal
from ...formats.stored_layer import LAYER_DIMENSIONS, is_quantized
from ..contents import Contents
from .opening import HSWQ_LOADER, Opening

_ANOTHER = "Open it with the loader that is for it"


def hswq_loader(contents: Contents) -> Opening:
    """What HSWQ Loader says of the file. Reads every scale of layers that it knows."""
    source = contents.source
    if source is None:
        return Opening(HSWQ_LOADER, "refuses", "this is no safetensors file", "Open it with ComfyUI-GGUF")
    if contents.alone:
        return Opening(HSWQ_LOADER, "refuses", f"there is no diffusion model in it, but {contents.alone}", _ANOTHER)
    try:
        check_scales(source, contents.prefix)
        _check_layers(contents)
    except CheckpointError as error:
        return Opening(HSWQ_LOADER, "refuses", error.what, error.remedy or "")
    others = next((layer for layer in contents.in_part("diffusion model") if layer.kind.family not in _KNOWN), None)
    if others is not None:
        return Opening(HSWQ_LOADER, "refuses", f"it does not know {others.kind.label} ({others.name})", _ANOTHER)
    return Opening(HSWQ_LOADER, "opens")


_KNOWN = ("fp8", "hswq", "comfy")


def _check_layers(contents: Contents) -> None:
    """Errors: CheckpointError for a weight that the loader does not know."""
    source = contents.source
    assert source is not None
    for key, info in source.tensors.items():
        if not key.startswith(contents.prefix) or not key.endswith(WEIGHT) or is_refusal(key, info.shape):
            continue
        name = key.removesuffix(WEIGHT)
        if is_quantized(source.tensors, name, info.dtype):
            decode_layer(source.tensors, source.tensor, name, info.shape, source.path)
        elif len(info.shape) in LAYER_DIMENSIONS and not is_float(info.dtype):
            raise CheckpointError(
                f"the layer {name} is quantized to {info.dtype}, which it does not know", where=source.path,
                remedy=_ANOTHER,
            )  # fmt: skip
