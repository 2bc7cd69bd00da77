"""What can be quantized: tensors by name, described before they are read. Files are one kind, live models another."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of a tensor: safetensors dtype name, shape, and its bytes [begin, end) in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def numel(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileIdentity:
    """Which file it is and in which state: rewriting it changes its size or its time, replacing it its number."""

    path: Path
    nbytes: int
    modified_ns: int
    inode: int

    @staticmethod
    def of(path: Path, status: os.stat_result) -> FileIdentity:
        return FileIdentity(Path(os.path.realpath(path)), status.st_size, status.st_mtime_ns, status.st_ino)

    def is_written_over(self) -> bool:
        """Whether this very file has changed since; not where another one has taken its place, or it is gone."""
        try:
            now = FileIdentity.of(self.path, os.stat(self.path))
        except OSError:
            return False
        return now.inode == self.inode and now != self


class TensorSource(Protocol):
    """A checkpoint to read from."""

    @property
    def path(self) -> Path:
        """Where it stands, for messages."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Type, shape and place of every tensor; reading in the order of places is fastest."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header's text."""
        ...

    @property
    def identity(self) -> FileIdentity:
        """Tells it from every other source, and from itself in another state."""
        ...

    @property
    def nbytes(self) -> int:
        """Its size as a file."""
        ...

    @property
    def patches(self) -> str:
        """A digest of what was put on top of its weights; empty for nothing."""
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU or the device it lives on, in memory of its own."""
        ...

    def elements(self, name: str, positions: Iterable[float]) -> list[float]:
        """Elements of a flattened weight at positions from 0 to 1, as it is without the patches."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes in safetensors order, in pieces."""
        ...

    def check_unchanged(self) -> None:
        """Errors: CheckpointError when the source was changed since it was opened."""
        ...
