"""Layers of optimum-quanto: ``L.weight._data`` and ``._scale``; in 4 bits ``._data._data`` and ``._shift``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ..kinds import QUANTO_FP8, QUANTO_INT4, QUANTO_INT8, unknown
from ..layer import CHANNEL, TENSOR, QuantizedLayer
from .stored import StoredTensors

_CODES, _PACKED, _SCALE, _SHIFT = ".weight._data", ".weight._data._data", ".weight._scale", ".weight._shift"
_INPUTS = (".input_scale", ".output_scale")
_KINDS = {"F8_E4M3": QUANTO_FP8, "F8_E5M2": QUANTO_FP8, "I8": QUANTO_INT8}


def read(tensors: StoredTensors) -> Iterator[QuantizedLayer]:
    """Layers in 8 bits, and in 4."""
    for name in tensors.matrices(_CODES):
        info, side = tensors.left[name + _CODES], tensors.beside(name, _SCALE, _SHIFT, *_INPUTS)
        yield QuantizedLayer(
            name, _KINDS.get(info.dtype) or unknown(f"optimum-quanto in {info.dtype}"), info.shape, name + _CODES, side,
            tensors.nbytes(name + _CODES, *side), TENSOR if _numel(tensors, name) == 1 else CHANNEL,
            decode=partial(_weight, tensors, name), scale=partial(_scale, tensors, name),
            largest_code=448.0 if info.dtype == "F8_E4M3" else 127.0, plain_codes=True,
        )  # fmt: skip
    for name in tensors.matrices(_PACKED):
        side = tensors.beside(name, _SCALE, _SHIFT, *_INPUTS)
        stored = tensors.left[name + _PACKED].shape
        grouped = (2 * stored[0], *stored[1:])  # groups as rows, unless a group is a whole row
        bias = tensors.left.get(f"{name}.bias")
        rows = bias.numel if bias is not None else grouped[0]
        whole = torch.Size(grouped).numel()
        shape = (rows, whole // rows) if rows and whole % rows == 0 else grouped
        yield QuantizedLayer(
            name, QUANTO_INT4, shape, name + _PACKED, side, tensors.nbytes(name + _PACKED, *side),
            CHANNEL if shape == grouped else str(grouped[1]),
            decode=partial(_packed_weight, tensors, name, shape), scale=partial(_scale, tensors, name),
            largest_code=8.0,
        )  # fmt: skip


def _numel(tensors: StoredTensors, name: str) -> int:
    info = tensors.left.get(name + _SCALE)
    return 0 if info is None else info.numel


def _scale(tensors: StoredTensors, name: str, part: str = _SCALE) -> torch.Tensor:
    """Of rows, or of groups as rows; a layer in 4 bits has a shift of the same shape."""
    packed = tensors.left.get(name + _PACKED)
    rows, *others = (
        (2 * packed.shape[0], *packed.shape[1:]) if packed is not None else tensors.left[name + _CODES].shape
    )
    fitting = ((), (1,), (rows, *[1] * len(others)))
    return tensors.checked(lambda: tensors.tensor(name + part), lambda shape: shape in fitting, name)


def _weight(tensors: StoredTensors, name: str) -> torch.Tensor:
    return tensors.tensor(name + _CODES).float() * _scale(tensors, name)


def _packed_weight(tensors: StoredTensors, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The low 4 bits are the first half of all rows, the high ones the second; scale * code - shift."""
    packed = tensors.tensor(name + _PACKED)
    codes = torch.cat([packed & 15, packed >> 4]).float()
    return (codes * _scale(tensors, name) - _scale(tensors, name, _SHIFT)).reshape(shape)
