"""A checkpoint's state dict with each quantized weight and its scale made one tensor, before any model is built."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.layers import LAYER_DIMENSIONS, MARKERS, WEIGHT, checked_scale, group_of, scale_key
from ..hswq_core.files.text_encoders import TEXT_ENCODERS
from ..hswq_core.log import get_logger
from ..hswq_core.rounding.rotation import rotated
from .compat import quantized_tensor

logger = get_logger(__name__)
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_CODES = (*_FP8, torch.int8)
_SAMPLE = 1 << 16
_LARGEST_SPREAD = 4.0
_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")


def join_scales(state_dict: dict[str, Any], prefix: str, path: Path) -> torch.dtype:
    """Replace, in place, every FP8 or INT8 weight under ``prefix`` by a quantized tensor, and remove the scales.

    Returns: the float type that the model is to have, that of most of its weights.

    FP8 tensors that are not the weight of a Linear layer or a convolution become plain ones of the file's float type.

    Errors: CheckpointError naming the layer whose scale is unusable, or that is quantized in a way of its own.
    """
    keys = [key for key in state_dict if key.startswith(prefix)]
    weights = {key for key in keys if key.endswith(WEIGHT) and state_dict[key].dtype in _CODES}
    dtype = _majority_float(state_dict, keys, weights)

    turned: list[str] = []
    markers = {key for key in keys if key.endswith(MARKERS) or key == f"{prefix}scaled_fp8"}
    for key in keys:
        tensor = state_dict.get(key)
        if tensor is None or key in markers:
            continue
        if key in weights:
            _check_layout(state_dict, key, path)
            scale = _pop_scale(state_dict, key.removesuffix(WEIGHT), tensor, path)
            group = _group(state_dict, key)
            turned += [key] if group > 1 else []
            if group == 1 and tensor.dim() in LAYER_DIMENSIONS:
                state_dict[key] = quantized_tensor(tensor, scale, dtype)
            else:
                state_dict[key] = rotated(tensor.float() * scale, group).to(dtype)
        elif tensor.dtype in _FP8:
            state_dict[key] = tensor.to(dtype)  # a naive cast of the whole file turned biases to FP8, too
        elif key.endswith(WEIGHT) and tensor.dim() in LAYER_DIMENSIONS:
            _check_float(key, tensor, path)
    for key in markers:
        del state_dict[key]
    if turned:
        logger.warning(
            "HSWQ: %s: %d layers were rotated for the arithmetic of ComfyUI's own loaders; here they take as much "
            "memory as in the original. Open the file with those, or quantize without rotation.",
            path.name,
            len(turned),
        )
    return dtype


def dequantize_text_encoders(state_dict: dict[str, Any], path: Path) -> None:
    """Make FP16 of every quantized weight of a text encoder with a scale, in place: ComfyUI cuts and renames them.

    It runs once for each picture, so that FP8 would save nothing while images are made.
    """
    for key in [key for key in state_dict if key.startswith(TEXT_ENCODERS) and key.endswith(WEIGHT)]:
        layer, tensor = key.removesuffix(WEIGHT), state_dict[key]
        if tensor.dtype in _CODES and scale_key(state_dict, layer) is not None:
            _check_layout(state_dict, key, path)
            scale = _pop_scale(state_dict, layer, tensor, path)
            state_dict[key] = rotated(tensor.float() * scale, _group(state_dict, key)).to(torch.float16)
            for marker in MARKERS:
                state_dict.pop(layer + marker, None)


def warn_of_lost_scales(state_dict: Mapping[str, Any], prefix: str, path: Path) -> None:
    """Say so where weights are as large as codes are: a tool that does not know scales has dropped them.

    No model's weights have a root mean square near one; codes that fill FP8's range have one near a hundred.
    """
    layers = [
        key.removesuffix(WEIGHT)
        for key, tensor in state_dict.items()
        if key.startswith(prefix)
        and key.endswith(WEIGHT)
        and tensor.dim() in LAYER_DIMENSIONS
        and tensor.is_floating_point()
    ]
    spreads = sorted(
        float(state_dict[layer + WEIGHT].flatten()[:_SAMPLE].float().square().mean().sqrt())
        for layer in layers[:: max(1, len(layers) // 16)]
        if scale_key(state_dict, layer) is None and state_dict[layer + WEIGHT].numel()
    )
    if spreads and spreads[len(spreads) // 2] > _LARGEST_SPREAD:
        logger.warning(
            "HSWQ: %s: the weights are far larger than any model's (root mean square %.0f); its scales may have been "
            "removed by a tool that does not know them, and images will be noise. Quantize the original again.",
            path.name,
            spreads[len(spreads) // 2],
        )


def _check_layout(state_dict: Mapping[str, Any], key: str, path: Path) -> None:
    """Errors: CheckpointError for codes that are more than numbers to multiply, and to rotate."""
    layer = key.removesuffix(WEIGHT)
    marker = state_dict.get(layer + MARKERS[0])
    if marker is None:
        return
    try:
        said = json.loads(bytes(marker.flatten().to(torch.uint8).tolist()))
        known = said.get("format") in _FORMATS and _group(state_dict, key) > 0
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise CheckpointError(
            f"the layer {layer} is quantized in a way that this loader does not know",
            where=path,
            remedy="Open it with ComfyUI's own loader, or with the one that its publisher names",
        )


def _group(state_dict: Mapping[str, Any], key: str) -> int:
    """How many columns of a weight are rotated together; 1 is none."""
    marker = state_dict.get(key.removesuffix(WEIGHT) + MARKERS[0])
    return 1 if marker is None else group_of(marker, tuple(state_dict[key].shape))


def _check_float(key: str, weight: torch.Tensor, path: Path) -> None:
    if not weight.is_floating_point() or weight.element_size() < 2:
        kind = str(weight.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"the layer {key.removesuffix(WEIGHT)} is quantized to {kind}, which this loader does not know",
            where=path,
            remedy="Open it with ComfyUI's own loader, or with the one that its publisher names",
        )


def _pop_scale(state_dict: dict[str, Any], layer: str, weight: torch.Tensor, path: Path) -> torch.Tensor:
    found = scale_key(state_dict, layer)
    if found is None:
        return torch.ones((), dtype=torch.float32)  # V1, or any plain FP8 file
    return checked_scale(found[0], state_dict.pop(found[0]), tuple(weight.shape), path)


def _majority_float(state_dict: Mapping[str, Any], keys: list[str], weights: set[str]) -> torch.dtype:
    """The type of most weights that are not FP8; FP16 for a file that has none, or too few to tell."""
    scales = {found[0] for key in weights if (found := scale_key(state_dict, key.removesuffix(WEIGHT)))}
    sizes: Counter[torch.dtype] = Counter()
    for key in keys:
        tensor = state_dict[key]
        if key not in scales and tensor.dtype in (torch.float16, torch.bfloat16, torch.float32) and tensor.dim() > 0:
            sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.float16
