"""Writes safetensors checkpoints in a stream, the layout first and then tensor by tensor, whole or not at all.

The safetensors library writes dictionaries of tensors that are all in memory.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

from ..errors import TargetError, printable
from .dtypes import BITS, nbytes_of
from .header import PICKLED
from .long_path import long_path
from .modelspec import HASH, UNKNOWN_HASH
from .names import check_stem
from .replace import replace
from .unfinished import remove_leftovers, temporary_beside

_PIECE = 1 << 22


class FileLayout:
    """Where every tensor of a file will stand, known before any data is: the header and the exact size.

    Args:
        tensors: safetensors dtype name and shape by key.
        metadata: text by key, for the header.
    """

    def __init__(self, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> None:
        # Largest element first, as the library orders them, so that every tensor stays aligned to its type.
        order = sorted(tensors, key=lambda name: (-BITS[tensors[name][0]], name))
        header: dict[str, object] = {
            "__metadata__": {printable(key): printable(text) for key, text in metadata.items()}
        }
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

    The header is written first; tensors then follow in any order, into a temporary file in the
    target's folder that is flushed to disk and renamed at the end. Whatever stops it, the target is as it was.

    Errors: TargetError when the target exists (and ``overwrite`` is off), its folder is missing, its name cannot be
    a file's everywhere, or the disk is full.
    """

    def __init__(self, path: Path, layout: FileLayout, *, overwrite: bool = False) -> None:
        self.path = path
        self._place = long_path(path)
        self._overwrite = overwrite
        self._layout = layout
        self._pending = set(layout.spans)
        self._temporary = temporary_beside(self._place)

    def __enter__(self) -> CheckpointWriter:
        check_target(self.path, overwrite=self._overwrite)
        remove_leftovers(self._place)
        free, needed = shutil.disk_usage(self._place.parent).free, self._layout.nbytes
        if free < needed:
            raise TargetError(
                f"{needed:,} bytes are needed, {free:,} are free", where=self.path.parent, remedy="Free disk space"
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
            # On a full disk closing writes once more what did not fit, and fails again.
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def _commit(self) -> None:
        self._file.flush()
        self._write_hash()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        check_target(self.path, overwrite=self._overwrite)  # it may have appeared meanwhile
        replace(self._temporary, self._place)

    def _write_hash(self) -> None:
        """Put the hash of all tensors where the header has room for it."""
        entry = f'"{HASH}":"{UNKNOWN_HASH}"'.encode("ascii")
        if entry not in self._layout.header:
            return
        place = self._layout.header.index(entry) + len(entry) - len(UNKNOWN_HASH) - 1
        hashed = hashlib.sha256()
        with self._temporary.open("rb") as written:
            written.seek(len(self._layout.header))
            while piece := written.read(_PIECE):
                hashed.update(piece)
        self._file.seek(place)
        self._file.write(f"0x{hashed.hexdigest()}".encode("ascii"))

    def _guarded(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> TargetError:
        reason = error.strerror or str(error)
        remedy = "Check the disk and the folder"
        if isinstance(error, PermissionError) and os.path.exists(self._place):
            # Windows does not replace a file that is mapped, and ComfyUI's own loaders map theirs.
            remedy = "A model that was loaded from it may hold it: unload the models, or choose another name"
        return TargetError(f"the file could not be written ({reason})", where=self.path, remedy=remedy)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Errors: TargetError when a file cannot or must not be written there."""
    if path.suffix.lower() in (*PICKLED, ".gguf"):
        raise TargetError(
            f"what is written is safetensors, and no program opens that as {path.suffix}",
            where=path,
            remedy="Name it .safetensors",
        )
    check_stem(path.stem, path.name)
    folder, place = long_path(path.parent), long_path(path)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise TargetError("this is a file, not a folder", where=path.parent, remedy="Move it away, or choose another")
    if not os.path.isdir(folder):
        raise TargetError("the target's folder does not exist", where=path.parent, remedy="Create it first")
    if os.path.isdir(place):
        raise TargetError("the target is a folder", where=path, remedy="Give a file name")
    if os.path.exists(place) and not os.path.isfile(place):
        raise TargetError("the target is no ordinary file", where=path, remedy="Choose another name")
    if (os.path.exists(place) or os.path.islink(place)) and not overwrite:  # a link may lead nowhere
        raise TargetError("the target exists already", where=path, remedy="Choose another name, or allow overwriting")


def check_not_source(target: Path, source: Path, what: str = "source") -> None:
    """Errors: TargetError when the target is a file that is read."""
    if same_file(target, source):
        raise TargetError(f"the target is the {what}", where=target, remedy="Choose another name")


def same_file(a: Path, b: Path) -> bool:
    """Whether both are there, and one file. pathlib raises for names that are too long."""
    return os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)
