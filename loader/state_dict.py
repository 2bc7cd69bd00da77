"""A checkpoint's state dict with each quantized weight and its scale made one tensor, before any model is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.decode import LayerDecoder, decode_layer
from ..hswq_core.files.dtypes import TORCH_DTYPES, dtype_name
from ..hswq_core.files.layers import WEIGHT
from ..hswq_core.files.source import TensorInfo
from ..hswq_core.files.text_encoders import TEXT_ENCODERS
from ..hswq_core.formats.stored_layer import LAYER_DIMENSIONS, MARKERS, SCALE_SUFFIXES, is_quantized, stored_layer
from ..hswq_core.log import get_logger
from .quantized_tensor import is_held, quantized_tensor

logger = get_logger(__name__)
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_CODES = (*_FP8, torch.int8)
_SAMPLE = 1 << 16
_LARGEST_SPREAD = 4.0


def join_scales(state_dict: dict[str, Any], prefix: str, dtype: torch.dtype, path: Path) -> None:
    """Replace, in place, every FP8 or INT8 weight under ``prefix`` by a quantized tensor, and remove the scales.

    FP8 tensors that are not the weight of a Linear layer or a convolution become plain ones of ``dtype``. Quantized
    weights of text encoders that have a scale become FP16: ComfyUI cuts and renames them, and they run once for each
    image, so that FP8 would save nothing while images are made. Others do where ComfyUI's device has no FP8.

    Args:
        dtype: what quantized weights compute as.

    Errors: CheckpointError naming the layer whose scale is unusable, or that is quantized in a way of its own.
    """
    unscaled: list[torch.Tensor] = []
    for key in list(state_dict):
        tensor = state_dict.get(key)
        if tensor is None or key.endswith(MARKERS):
            continue
        layer = key.removesuffix(WEIGHT) if key.endswith(WEIGHT) else ""
        if not key.startswith(prefix):
            if layer and key.startswith(TEXT_ENCODERS) and tensor.dtype in _CODES:
                _dequantize_text_encoder(state_dict, layer, path)
            if not is_held(state_dict[key].dtype):
                state_dict[key] = state_dict[key].half()
        elif layer and is_quantized(state_dict, layer, dtype_name(tensor.dtype)):
            decoder = _take_decoder(state_dict, layer, path)
            if tensor.dtype in _FP8 and decoder.scale_key is None:
                unscaled.append(tensor)
            is_layer = len(decoder.shape) in LAYER_DIMENSIONS
            state_dict[key] = (
                quantized_tensor(tensor, decoder, dtype) if is_layer else decoder.dequantize(tensor).to(dtype)
            )
        elif tensor.dtype in _FP8 and not key.endswith(SCALE_SUFFIXES):
            state_dict[key] = tensor.to(dtype)  # a naive cast of the whole file turned biases to FP8, too
        elif layer and tensor.dim() in LAYER_DIMENSIONS:
            _check_float(key, tensor, path)
            unscaled.append(tensor)
    for key in [key for key in state_dict if key.startswith(prefix) and key.endswith((*MARKERS, "scaled_fp8"))]:
        del state_dict[key]
    _warn_of_lost_scales(unscaled, path)


def majority_float(tensors: Mapping[str, TensorInfo], prefix: str) -> torch.dtype:
    """The type of most weights that are not quantized; FP16 for a file that has none, or too few to tell."""
    sizes: Counter[str] = Counter()
    scales: set[str] = set()
    for key, info in tensors.items():
        if not key.startswith(prefix):
            continue
        if key.endswith(WEIGHT) and is_quantized(tensors, key.removesuffix(WEIGHT), info.dtype):
            stored = stored_layer(tensors, key.removesuffix(WEIGHT), info.dtype, info.shape)
            scales |= {stored.name + stored.suffix}
        elif info.dtype in ("F16", "BF16", "F32") and info.shape:
            sizes[key] = info.numel
    by_type: Counter[str] = Counter()
    for key, elements in sizes.items():
        if key not in scales:
            by_type[tensors[key].dtype] += elements
    return TORCH_DTYPES[by_type.most_common(1)[0][0]] if by_type else torch.float16


def _dequantize_text_encoder(state_dict: dict[str, Any], layer: str, path: Path) -> None:
    codes = state_dict[layer + WEIGHT]
    if not stored_layer(state_dict, layer, "", tuple(codes.shape)).suffix:
        return
    state_dict[layer + WEIGHT] = _take_decoder(state_dict, layer, path).dequantize(codes).to(torch.float16)


def _take_decoder(state_dict: dict[str, Any], layer: str, path: Path) -> LayerDecoder:
    """What decodes a layer; the tensors that it was read from leave the state dict."""
    shape = tuple(state_dict[layer + WEIGHT].shape)
    decoder = decode_layer(state_dict, state_dict.__getitem__, layer, shape, path)
    for key in decoder.side_keys:
        del state_dict[key]
    return decoder


def _warn_of_lost_scales(weights: list[torch.Tensor], path: Path) -> None:
    """Say so where weights are as large as codes are: a tool that does not know scales has dropped them.

    No model's weights have a root mean square near one; codes that fill FP8's range have one near a hundred.

    Args:
        weights: those of layers without a scale.
    """
    spreads = sorted(
        float(weight.flatten()[:_SAMPLE].float().square().mean().sqrt())
        for weight in weights[:: max(1, len(weights) // 16)]
        if weight.numel()
    )
    if spreads and spreads[len(spreads) // 2] > _LARGEST_SPREAD:
        logger.warning(
            "HSWQ: %s: the weights are far larger than any model's (root mean square %.0f); its scales may have been "
            "removed by a tool that does not know them, and images will be noise. Quantize the original again.",
            path.name,
            spreads[len(spreads) // 2],
        )


def _check_float(key: str, weight: torch.Tensor, path: Path) -> None:
    if not weight.is_floating_point() or weight.element_size() < 2:
        kind = str(weight.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"the layer {key.removesuffix(WEIGHT)} is quantized to {kind}, which this loader does not know",
            where=path,
            remedy="Open it with ComfyUI's own loader, or with the one that its publisher names",
        )
