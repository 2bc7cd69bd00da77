"""Reads safetensors checkpoints, one tensor at a time, after checking header and file against each other.

A 7 GB checkpoint is to pass through in the memory of a few layers, and bytes that are not quantized are to arrive
untouched, in whatever type they are; the safetensors library knows only the types that torch has.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from types import TracebackType

import torch

from ..errors import CheckpointError
from .deferred import DeferredTensor
from .dtypes import TORCH_DTYPES
from .header import read_header
from .long_path import long_path
from .source import FileIdentity

_CHUNK = 1 << 24


class CheckpointReader:
    """A checkpoint whose header has been checked against the file, as a context manager.

    Errors: CheckpointError when the file is missing, not safetensors, truncated or inconsistent.
    """

    patches = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # layers are read from several threads
        place = long_path(path)
        if not os.path.isfile(place):  # pathlib raises for names that are too long
            raise _no_file(path, place)
        try:
            self._file: BufferedReader = place.open("rb")
        except OSError as error:
            raise CheckpointError(
                f"the file cannot be read ({error.strerror})", where=path, remedy="Check its permissions"
            ) from error
        try:
            self.tensors, self.metadata, self._data_start = read_header(self._file, path)
            self.identity = FileIdentity.of(path, os.fstat(self._file.fileno()))
            self.nbytes = self.identity.nbytes
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def check_unchanged(self) -> None:
        """Errors: CheckpointError when the file was rewritten in place since it was opened."""
        if FileIdentity.of(self.path, os.fstat(self._file.fileno())) != self.identity:
            raise CheckpointError(
                "the file was changed while it was read", where=self.path, remedy="Try again when it is complete"
            )

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, read into memory of its own. Errors: CheckpointError for a type torch does not have."""
        return self._bytes(name).view(self._dtype(name)).reshape(self.tensors[name].shape)

    def deferred(self, name: str) -> torch.Tensor:
        """One tensor, read when something is done with it, while this file is open (see ``DeferredTensor``)."""
        return DeferredTensor(lambda: self.tensor(name), self.tensors[name].shape, self._dtype(name))

    def tensor_or_bytes(self, name: str) -> torch.Tensor:
        """One tensor; of a type that torch does not have its bytes: no model that can be opened here uses it."""
        return self.tensor(name) if self._is_known(name) else self._bytes(name)

    def mapped(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Many tensors that stay in the file until they are used, as copies that nothing writes back.

        The mapping lives as long as any of them. Until then the file must not become shorter: the system ends a process
        that reads beyond its end.
        """
        # Writable for torch, which has no other tensors; what is written stays in memory.
        whole = torch.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)
        return {name: self._view(whole, name) for name in names}

    def _view(self, whole: torch.Tensor, name: str) -> torch.Tensor:
        info = self.tensors[name]
        begin, end = self._data_start + info.begin, self._data_start + info.end
        if not self._is_known(name):
            return whole[begin:end]
        dtype = self._dtype(name)
        if not info.nbytes or begin % dtype.itemsize:  # headers of any length are allowed
            return self.tensor(name)
        return whole[begin:end].view(dtype).reshape(info.shape)

    def elements(self, name: str, positions: Iterable[float]) -> list[float]:
        """Elements of a flattened tensor at positions from 0 to 1, without reading the rest."""
        info, dtype = self.tensors[name], self._dtype(name)
        found = []
        for position in positions:
            index = int(position * math.prod(info.shape))
            with self._lock:
                self._file.seek(self._data_start + info.begin + index * dtype.itemsize)
                data = bytearray(self._file.read(dtype.itemsize))
            if len(data) != dtype.itemsize:
                raise self._shrunk(name)
            found.append(float(torch.frombuffer(data, dtype=dtype).float()))
        return found

    def chunks(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes as they stand in the file, in pieces."""
        position, end = (self._data_start + offset for offset in (self.tensors[name].begin, self.tensors[name].end))
        while position < end:
            with self._lock:
                self._file.seek(position)
                chunk = self._file.read(min(end - position, _CHUNK))
            if not chunk:
                raise self._shrunk(name)
            position += len(chunk)
            yield chunk

    def _is_known(self, name: str) -> bool:
        return self.tensors[name].dtype in TORCH_DTYPES

    def _bytes(self, name: str) -> torch.Tensor:
        info = self.tensors[name]
        data = torch.empty(info.nbytes, dtype=torch.uint8)
        if info.nbytes:
            with self._lock:
                self._file.seek(self._data_start + info.begin)
                count = self._file.readinto(data.numpy().data)
            if count != info.nbytes:
                raise self._shrunk(name)
        return data

    def _dtype(self, name: str) -> torch.dtype:
        kind = self.tensors[name].dtype
        if kind not in TORCH_DTYPES:
            raise CheckpointError(
                f"tensor {name} has the type {kind}", where=self.path, remedy="This version cannot compute with it"
            )
        return TORCH_DTYPES[kind]

    def _shrunk(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"the file ended while tensor {name} was read", where=self.path, remedy="Try again when it is complete"
        )


def _no_file(path: Path, place: Path) -> CheckpointError:
    """What there is where no file is."""
    if os.path.isdir(place):
        what, remedy = "this is a folder, not a file", "Give the file that is in it"
    elif os.path.exists(place):
        what, remedy = "this is no ordinary file", "Give a file that is on a disk"
    elif os.path.islink(place):
        what, remedy = "this is a link that leads to no file", "Check where it leads"
    else:
        what, remedy = "there is no such file", "Check the name and the folder"
    return CheckpointError(what, where=path, remedy=remedy)
