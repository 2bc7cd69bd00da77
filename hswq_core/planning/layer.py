"""What happens to each layer, and the bytes that follow from it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..errors import CheckpointError
from ..files.dtypes import dtype_name
from ..files.layers import WEIGHT
from ..files.source import TensorInfo, TensorSource
from ..formats import Form

_SLACK = 14
"""Bytes that an entry of the header may grow by, when offsets in the file have more digits."""


@dataclass(frozen=True)
class LayerPlan:
    """One layer: its path in the diffusion model, its tensor in the file, what happens and why.

    ``form`` is what it is stored as; ``None`` for a layer that stays as it is.
    """

    layer: str
    key: str
    info: TensorInfo
    form: Form | None
    reason: str
    sensitivity: float | None = None

    @property
    def quantize(self) -> bool:
        return self.form is not None

    @property
    def stem(self) -> str:
        """The layer's name in the file: its key without ``.weight``."""
        return self.key[: -len(WEIGHT)]


def layout_of(source: TensorSource, layers: Iterable[LayerPlan]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape by key of the file in which these layers are quantized or kept as they say."""
    layout = {key: (info.dtype, info.shape) for key, info in source.tensors.items()}
    for layer in layers:
        if layer.form is None:
            continue
        layout[layer.key] = (layer.form.grid.file_dtype, layer.form.stored_shape(layer.info.shape))
        for name, tensor in layer.form.planned_side_tensors(layer.stem, layer.info.shape).items():
            if name in source.tensors:
                raise CheckpointError(
                    f"there is a tensor {name} already", where=source.path, remedy="Quantize the original"
                )
            layout[name] = (dtype_name(tensor.dtype), tuple(tensor.shape))
    return layout


def cost_of_keeping(name: str, info: TensorInfo, form: Form) -> int:
    """The bytes that keeping a layer adds, at most: its own, less those of its codes and what stands beside them."""
    return bytes_of_layer(name, info, None) - bytes_of_layer(name, info, form) + _SLACK


def bytes_of_layer(name: str, info: TensorInfo, form: Form | None) -> int:
    """The bytes of a layer in a file, but for some of the header: its weight, and what stands beside it.

    In the header, a layer that is kept has its name in the metadata, and one that is not the entries of the tensors
    beside it.
    """
    if form is None:
        return info.nbytes + len(json.dumps(name)) + 2
    side = form.planned_side_tensors(name, info.shape)
    beside = sum(tensor.nbytes + len(_header_entry(key, tensor)) for key, tensor in side.items())
    return math.prod(form.stored_shape(info.shape)) + beside


def _header_entry(key: str, tensor: torch.Tensor) -> str:
    """A tensor's entry in the header as short as it can be: with the smallest offsets."""
    spec = {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape), "data_offsets": [0, 4]}
    return json.dumps({key: spec}, separators=(",", ":"))[1:-1] + ","
