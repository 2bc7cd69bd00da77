"""The tensors that no reader has taken yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ...errors import CheckpointError
from ...files.checkpoint import CheckpointReader
from ...files.decode import LayerDecoder, decode_layer
from ...files.source import TensorInfo
from ..json_text import parsed

_MOST_OF_A_TEXT = 1 << 16


def count_in(said: Mapping[str, Any], key: str, default: int) -> int:
    """A count of a description; the default for what is not one."""
    found = said.get(key, default)
    return found if type(found) is int and found > 0 else default


def size_in(said: Mapping[str, Any], key: str, otherwise: str) -> str:
    """A count of a description, in words."""
    return str(count_in(said, key, 0) or otherwise)


def has_input_scale(side: Iterable[str]) -> bool:
    """Whether a scale for the layer's inputs is among the tensors beside it."""
    return any(key.endswith((".input_scale", ".scale_input")) for key in side)


def shape_in(said: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a description; empty for what is not one."""
    found = said.get("shape")
    fits = isinstance(found, list) and all(type(size) is int and size > 0 for size in found)
    return tuple(found) if fits and found else ()


@dataclass(frozen=True)
class StoredTensors:
    """Attributes: left: the header of those tensors."""

    source: CheckpointReader
    left: Mapping[str, TensorInfo]
    _read: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """The names of all tensors, without what stands before their last dot but one; by what stands there."""
        found: dict[str, list[str]] = {}
        for key in self.left:
            parent, _, name = key.rpartition(".")
            found.setdefault(parent, []).append(name)
        return found

    def with_suffix(self, suffix: str) -> list[str]:
        """What stands before the suffix, of all tensors that end in it."""
        return [key[: -len(suffix)] for key in self.left if key.endswith(suffix)]

    def matrices(self, suffix: str) -> list[str]:
        """The same of those that have two dimensions or more."""
        return [stem for stem in self.with_suffix(suffix) if len(self.left[stem + suffix].shape) > 1]

    def beside(self, stem: str, *suffixes: str) -> tuple[str, ...]:
        """The names of those that are there."""
        return tuple(stem + suffix for suffix in suffixes if stem + suffix in self.left)

    def nbytes(self, *keys: str) -> int:
        return sum(self.left[key].nbytes for key in keys)

    def tensor(self, key: str) -> torch.Tensor:
        """Errors: CheckpointError where there is none of this name."""
        if key not in self.left:
            raise self.damaged(f"the tensor {key} is missing")
        return self.source.tensor(key)

    def said(self, key: str) -> dict[str, Any]:
        """A JSON object that is stored as bytes; empty for what is not one."""
        info = self.left.get(key)
        if info is None or info.nbytes > _MOST_OF_A_TEXT:
            return {}
        found = parsed(bytes(self.source.tensor_or_bytes(key).flatten().view(torch.uint8).tolist()))
        return found if isinstance(found, dict) else {}

    def decoder(self, name: str, shape: tuple[int, ...], *, scaled: bool = True) -> LayerDecoder:
        """What decodes a layer that HSWQ reads itself.

        Args:
            shape: of the stored codes.
            scaled: whether codes mean nothing without a scale.

        Errors: CheckpointError where its scale is missing or does not fit.
        """
        found = decode_layer(self.left, self.tensor, name, shape, self.source.path)
        if scaled and found.scale_key is None:
            raise self.damaged(f"the scale of the quantized layer {name} is missing")
        return found

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            what, where=self.source.path, remedy="The file is damaged; download or quantize it again"
        )

    def checked(
        self, scale: Callable[[], torch.Tensor], fits: Callable[[tuple[int, ...]], bool], name: str
    ) -> torch.Tensor:
        """A scale as float32. Errors: CheckpointError for one that has another shape, or is not finite."""
        found = scale()
        if not fits(tuple(found.shape)):
            raise self.damaged(f"the scale of {name} has the shape {list(found.shape)}, which does not fit")
        found = found.float()
        if not bool(found.isfinite().all()):
            raise self.damaged(f"the scale of {name} is not finite")
        return found
