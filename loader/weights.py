"""A checkpoint's state dict with each FP8 weight and its scale made one tensor, checked before any model is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..hswq_core.files.layers import MARKERS, checked_scale, scale_key
from .compat import quantized_tensor

_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Summary:
    """What was found: layers in FP8, other Linear and Conv2d layers, bytes of the diffusion model, its float type."""

    fp8_layers: int
    other_layers: int
    nbytes: int
    dtype: torch.dtype


def join_scales(state_dict: dict[str, Any], prefix: str, path: Path) -> Summary:
    """Replace, in place, every FP8 weight under ``prefix`` by a quantized tensor, and remove the scales.

    Errors: CheckpointError naming the layer whose scale is unusable.
    """
    keys = [key for key in state_dict if key.startswith(prefix)]
    dtype = _majority_float(state_dict, keys)
    nbytes = sum(state_dict[key].nbytes for key in keys)
    fp8_layers, other_layers = 0, 0
    for key in keys:
        if not key.endswith(_WEIGHT):
            continue
        weight, layer = state_dict[key], key[: -len(_WEIGHT)]
        if weight.dtype not in _FP8:
            other_layers += weight.dim() in (2, 4)
            continue
        if weight.dim() not in (2, 4):
            # A naive cast turned norms and biases to FP8, too. Those compute in full precision.
            state_dict[key] = weight.to(dtype)
            continue
        scale = _pop_scale(state_dict, layer, weight, path)
        state_dict[key] = quantized_tensor(weight, scale, dtype)
        fp8_layers += 1
    for key in keys:
        tensor = state_dict.get(key)
        if tensor is None:
            continue
        if key.endswith(MARKERS) or key == f"{prefix}scaled_fp8":
            del state_dict[key]
        elif key.endswith(".bias") and tensor.dtype in _FP8:
            state_dict[key] = tensor.to(dtype)
    return Summary(fp8_layers, other_layers, nbytes, dtype)


def _pop_scale(state_dict: dict[str, Any], layer: str, weight: torch.Tensor, path: Path) -> torch.Tensor:
    found = scale_key(state_dict, layer)
    if found is None:
        return torch.ones((), dtype=torch.float32)  # V1, or any plain FP8 file
    return checked_scale(found[0], state_dict.pop(found[0]), tuple(weight.shape), path)


def _majority_float(state_dict: Mapping[str, Any], keys: list[str]) -> torch.dtype:
    """The type of most weights that are not FP8; FP16 for a file that has none, or too few to tell."""
    sizes: Counter[torch.dtype] = Counter()
    for key in keys:
        tensor = state_dict[key]
        if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32) and tensor.dim() > 0:
            sizes[tensor.dtype] += tensor.numel()
    # Scales are float32, too, but never outweigh the biases.
    return sizes.most_common(1)[0][0] if sizes else torch.float16
