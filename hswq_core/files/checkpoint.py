"""Safetensors checkpoints, one tensor at a time: a validating reader and an atomic, streaming writer.

The safetensors library reads and writes whole dictionaries; a 7 GB checkpoint is to pass through in the
memory of a few layers, and bytes that are not quantized are to arrive untouched, in whatever type they
are. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import TypeGuard

import torch

from ..errors import CheckpointError, TargetError

# The library allows 100 MB. SDXL's header has 0.3 MB; one this large is damaged, or meant to exhaust memory.
_MAX_HEADER = 25_000_000
_MAX_DIMENSIONS = 16
_CHUNK = 1 << 24
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TORCH.items()}


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


class CheckpointReader:
    """A checkpoint whose header has been checked against the file, as a context manager.

    Errors: CheckpointError when the file is missing, not safetensors, truncated or inconsistent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()  # layers are read from several threads
        if not path.is_file():
            raise CheckpointError("there is no such file", where=path, do="Check the name and the folder")
        self._file: BufferedReader = path.open("rb")
        try:
            self.tensors, self.metadata, self._data_start = _read_header(self._file, path)
            self.nbytes = os.fstat(self._file.fileno()).st_size
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

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

    def element(self, name: str) -> float:
        """The middle element of a tensor, flattened, without reading the rest."""
        info, dtype = self.tensors[name], self._dtype(name)
        index = math.prod(info.shape) // 2
        with self._lock:
            self._file.seek(self._data_start + info.begin + index * dtype.itemsize)
            data = bytearray(self._file.read(dtype.itemsize))
        if len(data) != dtype.itemsize:
            raise self._shrunk(name)
        return float(torch.frombuffer(data, dtype=dtype).float())

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

    def _dtype(self, name: str) -> torch.dtype:
        kind = self.tensors[name].dtype
        if kind not in _TORCH:
            raise CheckpointError(
                f"tensor {name} has the type {kind}", where=self.path, do="This version cannot compute with it"
            )
        return _TORCH[kind]

    def _shrunk(self, name: str) -> CheckpointError:
        return CheckpointError(
            f"the file ended while tensor {name} was read", where=self.path, do="Was it replaced meanwhile?"
        )


class FileLayout:
    """Where every tensor of a file will stand, known before any data is: the header and the exact size.

    Args:
        tensors: safetensors dtype name and shape by key.
        metadata: text by key, for the header.
    """

    def __init__(self, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> None:
        # Largest element first, as the library orders them, so that every tensor stays aligned to its type.
        order = sorted(tensors, key=lambda name: (-_BITS[tensors[name][0]], name))
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        self.spans: dict[str, tuple[int, int]] = {}
        offset = 0
        for name in order:
            dtype, shape = tensors[name]
            end = offset + nbytes_of(dtype, shape)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
            self.spans[name] = (offset, end)
            offset = end
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        encoded += b" " * (-len(encoded) % 8)
        self.header = len(encoded).to_bytes(8, "little") + encoded
        self.nbytes = len(self.header) + offset


class CheckpointWriter:
    """Writes a checkpoint whole or not at all, as a context manager.

    The header is written first; tensors then go to their places in any order, into a temporary file in the
    target's folder that is flushed to disk and renamed at the end. Whatever stops it, the target is as it was.

    Errors: TargetError when the target exists (and ``overwrite`` is off), its folder is missing, or the disk is full.
    """

    def __init__(self, path: Path, layout: FileLayout, *, overwrite: bool = False) -> None:
        self.path = path
        self._overwrite = overwrite
        self._layout = layout
        self._pending = set(layout.spans)
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> CheckpointWriter:
        check_target(self.path, overwrite=self._overwrite)
        remove_leftovers(self.path)
        free, needed = shutil.disk_usage(self.path.parent).free, self._layout.nbytes
        if free < needed:
            raise TargetError(
                f"{needed:,} bytes are needed, {free:,} are free", where=self.path.parent, do="Free disk space"
            )
        try:
            self._file = self._temporary.open("wb")
        except OSError as error:
            raise self._failed(error) from error
        self._guarded(lambda: self._file.write(self._layout.header))
        return self

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Put one tensor's bytes in their place."""
        begin, end = self._layout.spans[name]
        start = len(self._layout.header)

        def put() -> None:
            self._file.seek(start + begin)
            for chunk in chunks:
                self._file.write(chunk)

        self._guarded(put)
        if self._file.tell() != start + end:
            raise AssertionError(f"{name}: {self._file.tell() - start - begin} bytes given, {end - begin} announced")
        self._pending.discard(name)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._pending:
                    raise AssertionError(f"tensors never written: {sorted(self._pending)}")
                self._guarded(self._commit)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        check_target(self.path, overwrite=self._overwrite)  # it may have appeared meanwhile
        os.replace(self._temporary, self.path)

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TargetError:
        reason = error.strerror or str(error)
        remedy = "Check the disk and the folder"
        if isinstance(error, PermissionError) and self.path.exists():
            # Windows does not replace a file that is mapped, and loaders map theirs.
            remedy = "A model that was loaded from it may hold it: unload the models, or choose another name"
        return TargetError(f"the file could not be written ({reason})", where=self.path, do=remedy)


def nbytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _BITS[dtype] // 8


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes in safetensors order (row-major, little-endian)."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def dtype_name(dtype: torch.dtype) -> str:
    return _NAMES[dtype]


def is_float(dtype: str) -> bool:
    """Whether a safetensors type is a float of 16 bits or more, which can be quantized."""
    return dtype in ("F16", "BF16", "F32", "F64")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Errors: TargetError when a file cannot or must not be written there."""
    if not path.parent.is_dir():
        raise TargetError("the target's folder does not exist", where=path.parent, do="Create it first")
    if path.is_dir():
        raise TargetError("the target is a folder", where=path, do="Give a file name")
    if path.exists() and not overwrite:
        raise TargetError("the target exists already", where=path, do="Choose another name, or allow overwriting")


def remove_leftovers(path: Path) -> None:
    """Remove temporary files for this target whose process is gone: what a crash or a kill left behind."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = leftover.name.split(".")[-2]
        if process.isdigit() and not _is_running(int(process)):
            with contextlib.suppress(OSError):
                leftover.unlink()


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return True
    if os.name == "nt":
        # There, os.kill would end the process instead of asking for it. An open file cannot be removed on
        # Windows, so trying to is safe.
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_header(file: BufferedReader, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    remedy = "Only safetensors checkpoints can be opened; download it again if it should be one"

    def bad(what: str) -> CheckpointError:
        return CheckpointError(what, where=path, do=remedy)

    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > max(size, _MAX_HEADER):
        raise bad("this is not a safetensors file")
    if length > _MAX_HEADER:
        raise bad(f"the header has {length:,} bytes, more than any model needs")
    if 8 + length > size:
        raise bad("the file is truncated: it ends inside its header")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise bad("this is not a safetensors file: its header is no JSON, or names a tensor twice") from error
    if not isinstance(header, dict):
        raise bad("this is not a safetensors file: its header is no JSON object")
    metadata = header.pop("__metadata__", {}) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise bad("the header's metadata is not text")
    try:
        "".join([*header, *metadata, *metadata.values()]).encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad("the header is damaged: a name in it is no text") from error

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


def _tensor_info(name: str, entry: object, bad: Callable[[str], CheckpointError]) -> TensorInfo:
    damaged = bad(f"the header is damaged at tensor {name}")
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise damaged
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS or not _naturals(span) or len(span) != 2:
        raise damaged
    if (span[1] - span[0]) * 8 != math.prod(shape) * _BITS[dtype]:
        raise bad(f"the header is damaged: tensor {name} does not have the size of its shape")
    return TensorInfo(dtype, tuple(shape), span[0], span[1])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)
