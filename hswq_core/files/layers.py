"""Where layers stand in a checkpoint, and under which names their scales are found."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..grids import E4M3, INT8
from .dtypes import is_float
from .source import TensorInfo, TensorSource

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.model.", "model.", "net.", "")
"""Where the diffusion model may begin, most specific first."""

WEIGHT = ".weight"
FP8_DTYPES = ("F8_E4M3", "F8_E5M2")
LAYER_DIMENSIONS = frozenset({2, 3, 4, 5})
"""Of weights: Linear, and convolutions over one, two or three dimensions."""
QUANTIZED_DTYPES = (*FP8_DTYPES, "I8")
"""What the weights of quantized layers are; integers mean nothing without a scale."""
MARKERS = (".comfy_quant", ".input_scale", ".scale_input")
"""What other formats store beside a layer: it steers their own FP8 code and means nothing without it."""

# V2 (two spellings), ComfyUI's own, and the older scaled_fp8 of text encoders and Flux conversions.
_SCALE_SUFFIXES = (".scale", ".weight.scale", ".weight_scale", ".scale_weight")

_GROUPS = tuple(4**power for power in range(1, 8))
"""Of columns that ComfyUI rotates together."""

_SCALED_MODES = ("v2", "comfy", "int8", "comfy-int8")


def kind_of_codes(dtype: str) -> str:
    """What people call the grid of a quantized weight, by its safetensors type."""
    return E4M3.name if dtype in FP8_DTYPES else INT8.name


def scale_key(keys: Container[str], layer: str) -> tuple[str, str] | None:
    """The key of the scale that belongs to ``layer``'s weight, and its suffix; ``None`` if there is none.

    Ask only for layers whose weight is quantized: a norm's own ``.scale`` parameter is not a quantization scale.
    """
    return next(((layer + suffix, suffix) for suffix in _SCALE_SUFFIXES if layer + suffix in keys), None)


def group_of(description: torch.Tensor, shape: tuple[int, ...]) -> int:
    """How many columns of a weight of this shape are rotated together, by its ``comfy_quant``; 1 is none.

    Errors: ValueError where that is not JSON, or says what cannot be.
    """
    said = json.loads(bytes(description.flatten().to(torch.uint8).tolist()))
    if not isinstance(said, dict) or not said.get("convrot"):
        return 1
    group = said.get("convrot_groupsize", 256)
    if len(shape) != 2 or group not in _GROUPS or shape[1] % group:
        raise ValueError(f"a weight of {list(shape)} is not rotated in groups of {group}")
    return int(group)


def stray_tensor(keys: Container[str], layer: str) -> str:
    """A tensor beside an unquantized layer that readers would take for its scale, were it quantized; or nothing."""
    return next((suffix for suffix in (*_SCALE_SUFFIXES, *MARKERS) if layer + suffix in keys), "")


def check_scales(source: TensorSource, prefix: str) -> None:
    """Every quantized weight has a scale if its type, the others or the file's mode say so, and every scale a weight.

    Errors: CheckpointError naming the layer.
    """
    remedy = "The file is damaged or was changed; quantize the model again"
    tensors = {key: info for key, info in source.tensors.items() if key.startswith(prefix)}
    layers = {k.removesuffix(WEIGHT) for k, i in tensors.items() if k.endswith(WEIGHT) and i.dtype in QUANTIZED_DTYPES}
    without = sorted(layer for layer in layers if scale_key(tensors, layer) is None)
    integers = [layer for layer in without if tensors[layer + WEIGHT].dtype not in FP8_DTYPES]
    if integers or (without and (len(without) < len(layers) or source.metadata.get("hswq.mode") in _SCALED_MODES)):
        missing = (integers or without)[0]
        raise CheckpointError(
            f"the scale of the quantized layer {missing} is missing", where=source.path, remedy=remedy
        )
    for key, info in tensors.items():
        suffix = next((s for s in sorted(_SCALE_SUFFIXES, key=len, reverse=True) if key.endswith(s)), None)
        layer = key.removesuffix(suffix or "")
        if suffix is None or layer in layers:
            continue
        beside = tensors.get(layer + WEIGHT)
        if beside is None:
            orphan = suffix != ".scale"  # a norm has a parameter of this name, and no weight
        else:
            # Layers quantized to other types have scales, too.
            orphan = is_float(beside.dtype) and len(beside.shape) in LAYER_DIMENSIONS
            orphan = orphan and (suffix != ".scale" or math.prod(info.shape) in (1, beside.shape[0]))
        if orphan:
            raise CheckpointError(f"the scale {key} belongs to no quantized weight", where=source.path, remedy=remedy)


def checked_scale(name: str, scale: torch.Tensor, shape: tuple[int, ...], where: Path) -> torch.Tensor:
    """A scale as float32, ready to be multiplied with a weight of that shape: [] or [C_out, 1, ...].

    Errors: CheckpointError when it is not a float of 16 bits or more, not positive and finite throughout, or neither
    one number nor one for each output channel.
    """
    remedy = "The file is damaged or of an unknown format; quantize the model again"
    if not scale.is_floating_point() or scale.element_size() < 2:
        raise CheckpointError(f"the scale {name} has the type {scale.dtype}", where=where, remedy=remedy)
    scale = scale.detach().to(torch.float32)
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise CheckpointError(f"the scale {name} is not a positive number", where=where, remedy=remedy)
    if scale.numel() == 1:
        return scale.reshape(())
    if shape and scale.numel() == scale.shape[0] == shape[0]:
        return scale.reshape(-1, *[1] * (len(shape) - 1))
    shapes = f"{list(scale.shape)} for a weight of {list(shape)}"
    raise CheckpointError(f"the scale {name} has the shape {shapes}", where=where, remedy=remedy)


def layer_weights(source: TensorSource, prefix: str) -> dict[str, TensorInfo]:
    """The weights of Linear layers and convolutions under the prefix, by layer, float or quantized."""
    return {
        key[len(prefix) : -len(WEIGHT)]: info
        for key, info in source.tensors.items()
        if key.startswith(prefix)
        and key.endswith(WEIGHT)
        and len(info.shape) in LAYER_DIMENSIONS
        and (is_float(info.dtype) or info.dtype in QUANTIZED_DTYPES)
    }


def find_prefix(source: TensorSource, layers: Iterable[str] | None = None) -> str:
    """Where the diffusion model stands in the file: the known prefix under which its layers are found.

    Args:
        layers: the layers it must have, where they are known.

    Errors: CheckpointError when there is none.
    """
    if layers is None:
        ends = {key for key in source.tensors if key.endswith(WEIGHT)}
        found = {p: sum(key.startswith(p) for key in ends) for p in PREFIXES}
        best = next((p for p in PREFIXES if found[p]), "")
    else:
        wanted = list(layers)
        found = {p: sum(f"{p}{name}{WEIGHT}" in source.tensors for name in wanted) for p in PREFIXES}
        best = max(PREFIXES, key=lambda p: found[p])
    if not found[best]:
        raise CheckpointError(
            "no layer of the diffusion model was found in this file"
            + ("" if layers is None else " by the names that it had when it was calibrated"),
            where=source.path,
            remedy="Choose the checkpoint that was calibrated. Files whose tensors ComfyUI renames, such as those of "
            "diffusers, are quantized in ComfyUI, by HSWQ Quantize",
        )
    return best
