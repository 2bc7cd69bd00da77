"""GGUF files, read by the package ``gguf`` where it is installed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError
from ...files.layers import WEIGHT
from ...files.long_path import long_path
from ...files.source import TensorInfo
from ..kinds import gguf as kind_of
from ..layer import QuantizedLayer

_MAGIC = b"GGUF"
_PLAIN = ("F16", "BF16", "F32", "F64", "I8", "I16", "I32", "I64")
_SHAPE = "comfy.gguf.orig_shape."
"""Of a tensor that was reshaped so that its rows are whole blocks, as ComfyUI-GGUF's converter does."""


@dataclass(frozen=True)
class GGUFFile:
    """Attributes: read: a tensor that is not quantized, by its name."""

    nbytes: int
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    layers: Mapping[str, QuantizedLayer]
    read: Callable[[str], torch.Tensor]


def is_gguf(path: Path) -> bool:
    place = long_path(path)
    if not os.path.isfile(place):  # whoever opens a pipe waits for somebody to write
        return False
    try:
        with place.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # the reader of checkpoints says what is wrong


def read_gguf(path: Path) -> GGUFFile:
    """Errors: CheckpointError without the package, and for a file that is damaged."""
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(
            "this is a GGUF file, and the package that reads them is missing", where=path, remedy="pip install gguf"
        ) from error
    try:
        reader: Any = gguf.GGUFReader(long_path(path))
        metadata = {key: str(field.contents()) for key, field in reader.fields.items()}
        return _file(path, gguf, reader, metadata)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(
            f"the GGUF file is truncated or damaged ({error})", where=path, remedy="Download it again"
        ) from error


def _file(path: Path, gguf: Any, reader: Any, metadata: dict[str, str]) -> GGUFFile:
    tensors: dict[str, TensorInfo] = {}
    layers: dict[str, QuantizedLayer] = {}
    stored: dict[str, Any] = {}
    size = long_path(path).stat().st_size
    for each in reader.tensors:
        kind, begin, nbytes = each.tensor_type.name, int(each.data_offset), int(each.n_bytes)
        if begin + nbytes > size:
            raise ValueError(f"the tensor {each.name} ends behind the file")
        shape = _shape(each, reader)
        tensors[each.name] = TensorInfo(kind, shape, begin, begin + nbytes)
        stored[each.name] = each
        if kind not in _PLAIN:
            block = gguf.GGML_QUANT_SIZES[each.tensor_type][0]
            name = each.name.removesuffix(WEIGHT)
            read = partial(_dequantized, gguf, each, shape)
            layers[name] = QuantizedLayer(name, kind_of(kind), shape, each.name, (), nbytes, str(block), decode=read)
    return GGUFFile(size, metadata, tensors, layers, lambda name: _dequantized(gguf, stored[name], tensors[name].shape))


def _shape(tensor: Any, reader: Any) -> tuple[int, ...]:
    """Rows first; the file has columns first."""
    stored = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    original = reader.fields.get(f"{_SHAPE}{tensor.name}")
    if original is None:
        return stored
    shape = tuple(int(size) for size in original.contents())
    if min(shape, default=1) < 0 or math.prod(shape) != math.prod(stored):
        raise ValueError(f"the tensor {tensor.name} has {math.prod(stored)} weights, which do not fit its shape")
    return shape


def _dequantized(gguf: Any, tensor: Any, shape: tuple[int, ...]) -> torch.Tensor:
    import numpy as np  # which gguf needs itself

    with np.errstate(all="ignore"):  # of damaged blocks NumPy would warn; whoever asks looks at the values
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(values.astype("float32", copy=True)).reshape(shape)
