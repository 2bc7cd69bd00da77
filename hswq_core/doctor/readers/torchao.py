"""Layers that torchao has flattened for safetensors: ``L._weight_qdata`` and its parts, their class in the header."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..json_text import parsed
from ..kinds import TORCHAO_FP8, TORCHAO_INT8, unknown
from ..layer import CHANNEL, NO_SCALE, TENSOR, QuantizedLayer, granularity
from .stored import StoredTensors

_CODES, _SCALE, _ZERO = "._weight_qdata", "._weight_scale", "._weight_zero_point"
_KINDS = {"F8_E4M3": TORCHAO_FP8, "F8_E5M2": TORCHAO_FP8, "I8": TORCHAO_INT8}


def read(tensors: StoredTensors) -> Iterator[QuantizedLayer]:
    """Layers with ``_weight_qdata``."""
    for name in tensors.matrices(_CODES):
        info = tensors.left[name + _CODES]
        side = tuple(key for key in tensors.left if key.startswith(f"{name}._weight_") and key != name + _CODES)
        scale = tensors.left.get(name + _SCALE)
        known = _KINDS.get(info.dtype) if _class_of(tensors, name) in ("", "Float8Tensor", "Int8Tensor") else None
        group = NO_SCALE
        if scale is not None:
            group = granularity(scale.shape, info.shape[0], str(info.numel // max(1, scale.numel)))
        readable = known is not None and group in (TENSOR, CHANNEL)
        yield QuantizedLayer(
            name, known or unknown(f"torchao {_class_of(tensors, name)}"), info.shape, name + _CODES, side,
            tensors.nbytes(name + _CODES, *side), group,
            decode=partial(_weight, tensors, name) if readable else None,
            scale=partial(_scale, tensors, name) if readable else None,
            largest_code=448.0 if info.dtype == "F8_E4M3" else 127.0, plain_codes=known is not None,
        )  # fmt: skip


def _class_of(tensors: StoredTensors, name: str) -> str:
    said = parsed(tensors.source.metadata.get(f"{name}.weight", "{}"))
    found = said.get("_type") if isinstance(said, dict) else None
    return found if isinstance(found, str) else ""


def _scale(tensors: StoredTensors, name: str) -> torch.Tensor:
    rows = tensors.left[name + _CODES].shape[0]
    return tensors.checked(
        lambda: tensors.tensor(name + _SCALE), lambda shape: torch.Size(shape).numel() in (1, rows), name
    ).reshape(-1, 1)


def _weight(tensors: StoredTensors, name: str) -> torch.Tensor:
    codes = tensors.tensor(name + _CODES)
    zero = tensors.tensor(name + _ZERO).float().reshape(-1, 1) if name + _ZERO in tensors.left else 0.0
    return ((codes.float().flatten(1) - zero) * _scale(tensors, name)).view(codes.shape)
