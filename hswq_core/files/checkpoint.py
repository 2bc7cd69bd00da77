"""Reads safetensors checkpoints, one tensor at a time, after checking header and file against each other.

A 7 GB checkpoint is to pass through in the memory of a few layers, and bytes that are not quantized are to arrive
untouched, in whatever type they are; the safetensors library knows only the types that torch has.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import TypeGuard

import torch

from ..errors import CheckpointError
from .dtypes import BITS, TORCH_DTYPES
from .source import FileIdentity, TensorInfo

MAX_HEADER = 100_000_000
"""Bytes, as the safetensors library has it. SDXL's header has 0.3 MB; trainers write megabytes of text into it."""
_MAX_STRUCTURE = 25_000_000
"""What may be left of a header without its long texts: read as JSON, small objects take 30 times their bytes."""
_LONG = 4096
_MAX_DIMENSIONS = 16
_CHUNK = 1 << 24
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_TEXTS = re.compile(rb'"[^"]*"')


class CheckpointReader:
    """A checkpoint whose header has been checked against the file, as a context manager.

    Errors: CheckpointError when the file is missing, not safetensors, truncated or inconsistent.
    """

    patches = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # layers are read from several threads
        if not os.path.isfile(path):  # pathlib raises for names that are too long
            raise CheckpointError("there is no such file", where=path, remedy="Check the name and the folder")
        try:
            self._file: BufferedReader = path.open("rb")
        except OSError as error:
            raise CheckpointError(
                f"the file cannot be read ({error.strerror})", where=path, remedy="Check its permissions"
            ) from error
        try:
            self.tensors, self.metadata, self._data_start = _read_header(self._file, path)
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
        info, dtype = self.tensors[name], self._dtype(name)
        buffer = bytearray(info.nbytes)
        if buffer:
            with self._lock:
                self._file.seek(self._data_start + info.begin)
                count = self._file.readinto(buffer)
            if count != info.nbytes:
                raise self._shrunk(name)
            return torch.frombuffer(buffer, dtype=dtype).reshape(info.shape)
        return torch.empty(info.shape, dtype=dtype)

    def read(self, names: Iterable[str], *, mapped: bool) -> dict[str, torch.Tensor]:
        """Many tensors.

        Args:
            mapped: whether they stay in the file until they are used, as copies that nothing writes back. The mapping
                lives as long as any of them.

        One of a type that torch does not have is given as its bytes: no model that can be opened here uses it.
        """
        if not mapped:
            return {name: self.tensor(name) if self._is_known(name) else self._raw(name) for name in names}
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

    def _raw(self, name: str) -> torch.Tensor:
        return torch.frombuffer(bytearray(b"".join(self.chunks(name))) or bytearray(1), dtype=torch.uint8)

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


def _read_header(file: BufferedReader, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    remedy = "Only safetensors checkpoints can be opened; download it again if it should be one"
    if path.suffix.lower() in PICKLED:
        remedy = "Load it in ComfyUI and connect the MODEL to HSWQ Quantize, or save it as safetensors"

    def bad(what: str) -> CheckpointError:
        return CheckpointError(what, where=path, remedy=remedy)

    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > max(size, MAX_HEADER):
        raise bad("this is not a safetensors file")
    if length > MAX_HEADER:
        raise bad(f"the header has {length:,} bytes, and safetensors allows {MAX_HEADER:,}")
    if 8 + length > size:
        raise bad("the file is truncated: it ends inside its header")
    encoded = file.read(length)
    if not _has_form_of_header(encoded):
        raise bad("this is not a safetensors file: its header is not a list of tensors, or is longer than any model's")
    try:
        header = json.loads(encoded.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise bad("this is not a safetensors file: its header is not JSON, or names a tensor twice") from error
    if not isinstance(header, dict):
        raise bad("this is not a safetensors file: its header is not a JSON object")
    metadata = header.pop("__metadata__", {}) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise bad("the header's metadata is not text")
    try:
        "".join([*header, *metadata, *metadata.values()]).encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad("the header is damaged: a name in it is not text") from error

    data_start, available = 8 + length, size - 8 - length
    tensors = {name: _tensor_info(name, entry, bad) for name, entry in header.items()}
    expected = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != expected:
            raise bad(f"the header is damaged: tensor {name} does not begin where the one before it ends")
        expected = info.end
    if expected > available:
        raise bad(f"the file is truncated: {expected:,} bytes of tensors are announced, {available:,} are there")
    if expected < available:
        raise bad(f"the header is damaged: {available - expected:,} bytes belong to no tensor")
    return tensors, metadata, data_start


def _has_form_of_header(encoded: bytes) -> bool:
    """Whether brackets come as in a list of tensors: JSON of brackets alone takes 30 times its bytes.

    Every tensor is one object with two lists; two more objects are the header and its metadata. Long texts may be
    megabytes, everything else may not.
    """
    # Without what is escaped, in this order, a text ends at its next quotation mark.
    plain = encoded.replace(b"\\\\", b"").replace(b'\\"', b"")
    objects = lists = end = texts = 0
    for text in _TEXTS.finditer(plain):
        objects += plain.count(b"{", end, text.start())
        lists += plain.count(b"[", end, text.start())
        end, length = text.end(), text.end() - text.start()
        texts += length if length > _LONG else 0
        if lists > 2 * objects or 2 * objects > lists + 6 or end - texts > _MAX_STRUCTURE:
            return False
    objects, lists = objects + plain.count(b"{", end), lists + plain.count(b"[", end)
    return lists <= 2 * objects <= lists + 6 and len(plain) - texts <= _MAX_STRUCTURE


def _tensor_info(name: str, entry: object, bad: Callable[[str], CheckpointError]) -> TensorInfo:
    damaged = bad(f"the header is damaged at tensor {name}")
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise damaged
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS or not _naturals(span) or len(span) != 2:
        raise damaged
    if (span[1] - span[0]) * 8 != math.prod(shape) * BITS[dtype]:
        raise bad(f"the header is damaged: tensor {name} does not have the size of its shape")
    return TensorInfo(dtype, tuple(shape), span[0], span[1])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)
