"""A checkpoint whose tensors are made one by one when they are asked for, such as a model in memory with patches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..fingerprint import elements_at
from .checkpoint import CheckpointReader
from .dtypes import TORCH_DTYPES, dtype_name, nbytes_of, tensor_bytes
from .source import FileIdentity, TensorInfo

_numbers = itertools.count(1)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of an open file."""

    file: CheckpointReader
    key: str

    @property
    def dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self.file.tensors[self.key].dtype]


@dataclass(frozen=True)
class LiveTensor:
    """A tensor as it lies in memory, and what makes it what it is to be, where patches are on top.

    Attributes:
        compute_patched: returns a tensor of the shape of ``original``, in the type that it is asked for.
        origin: what it was loaded from, where that is known. A program may hold it in another type (a UNet in float32
            where there is no arithmetic in 16 bits, a VAE in bfloat16): it is written as the file has it.
    """

    original: torch.Tensor
    compute_patched: Callable[[torch.dtype], torch.Tensor] | None = None
    origin: StoredTensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The type in which it is written."""
        return self.original.dtype if self.origin is None else self.origin.dtype

    def unpatched(self) -> torch.Tensor:
        """The tensor in memory of its own: that of the file, if memory holds the same, to the bit."""
        held = self.original.detach()
        if self.origin is not None:
            stored = self.origin.file.tensor(self.origin.key)
            if torch.equal(stored.to(held.dtype), held.cpu()):
                return stored
        return held.to(self.dtype, copy=True)  # rounding works in place, and the model goes on being used

    def patched(self) -> torch.Tensor:
        """The tensor with what is on top of it."""
        return self.unpatched() if self.compute_patched is None else self.compute_patched(self.dtype)


@dataclass
class LiveSource:
    """Tensors in memory, and those of a file for the rest.

    Args:
        name: what messages call it.
        live: tensors by key.
        rest: a file, open while this source is read, for ``rest_keys``.
        patches: a digest of what is on top of the originals.
    """

    name: str
    live: Mapping[str, LiveTensor]
    rest: CheckpointReader | None = None
    rest_keys: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)
    patches: str = ""

    def __post_init__(self) -> None:
        self.path = Path(self.name)
        self.tensors: dict[str, TensorInfo] = {key: self.rest.tensors[key] for key in self.rest_keys if self.rest}
        begin = self.rest.nbytes if self.rest else 0
        for key, tensor in self.live.items():
            shape = tuple(tensor.original.shape)
            kind = dtype_name(tensor.dtype)
            end = begin + nbytes_of(kind, shape)
            self.tensors[key] = TensorInfo(kind, shape, begin, end)
            begin = end
        self.nbytes = sum(info.nbytes for info in self.tensors.values())
        self.identity = FileIdentity(self.path, self.nbytes, next(_numbers), 0)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, with its patches. Errors: CheckpointError for a patch that gives it another shape."""
        if name not in self.live:
            return self._file.tensor(name)
        live = self.live[name]
        made = live.patched()
        if made.shape != live.original.shape:
            shapes = f"from {list(live.original.shape)} to {list(made.shape)}"
            raise CheckpointError(
                f"a patch changes the shape of {name} {shapes}",
                where=self.name,
                remedy="Save the model with Save Checkpoint, and quantize the saved file",
            )
        return made.detach().to(live.dtype)

    def elements(self, name: str, positions: Iterable[float]) -> list[float]:
        """Elements of a flattened weight at positions from 0 to 1, without the patches."""
        if name not in self.live:
            return self._file.elements(name, positions)
        return elements_at(self.live[name].original, positions)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes in safetensors order."""
        if name in self.live:
            yield tensor_bytes(self.tensor(name))
        else:
            yield from self._file.chunks(name)

    def check_unchanged(self) -> None:
        """Errors: CheckpointError when a file behind it was changed."""
        files = [self.rest, *(tensor.origin.file for tensor in self.live.values() if tensor.origin)]
        for file in dict.fromkeys(file for file in files if file is not None):
            file.check_unchanged()

    @property
    def _file(self) -> CheckpointReader:
        assert self.rest is not None
        return self.rest
