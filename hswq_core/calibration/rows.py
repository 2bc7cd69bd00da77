"""Sampled rows that are not in memory: in a statistics file, or the merger of two samples, made when it is asked for.

The rows of SDXL are gigabytes. A session holds them where they are, and whoever needs a layer's gets that layer's.
"""

from __future__ import annotations

import json
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from ..errors import StatisticsError
from ..files.source import FileIdentity

_BYTES = 2  # of a float16


class StoredFile:
    """A statistics file whose rows are read later.

    Where a file that is open can be replaced it is kept open, and what is read stays what it was. On Windows it is
    opened for every read, since an open file could not be replaced there; if it has been, reading says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity = FileIdentity.of(path, os.stat(path))
        self._open: int | None = None
        if os.name != "nt":
            self._open = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._open)

    def read(self, begin: int, count: int) -> bytearray:
        """Errors: StatisticsError when the file is another one by now, or shorter."""
        data = bytearray(count)
        try:
            done = self._read_into(memoryview(data), begin)
        except OSError as error:
            raise self._changed(str(error)) from error
        if done != count:
            raise self._changed("it is shorter")
        return data

    def _read_into(self, view: memoryview, begin: int) -> int:
        done = 0
        if self._open is None:
            with self.path.open("rb") as file:
                if FileIdentity.of(self.path, os.fstat(file.fileno())) != self._identity:
                    raise self._changed("it was replaced")
                file.seek(begin)
                return file.readinto(view)  # type: ignore[attr-defined]
        while done < len(view) and (piece := os.preadv(self._open, [view[done:]], begin + done)):
            done += piece
        return done

    def _changed(self, how: str) -> StatisticsError:
        return StatisticsError(
            f"the statistics changed while they were in use ({how})", where=self.path, remedy="Run it again"
        )


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows [R, K] in a file, float16, from a byte on."""

    file: StoredFile
    begin: int
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def tensor(self) -> torch.Tensor:
        """Read from the file each time."""
        if not self.shape[0]:
            return torch.empty(self.shape, dtype=torch.float16)
        data = self.file.read(self.begin, self.shape[0] * self.shape[1] * _BYTES)
        return torch.frombuffer(data, dtype=torch.float16).view(self.shape)


def stored_rows(path: Path) -> dict[str, StoredRows]:
    """The samples in a statistics file by key. Errors: OSError; ValueError for a header that names no float16."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    stored, found = StoredFile(path), {}
    for key, info in header.items():
        if not key.endswith((".rows", ".patches")):
            continue
        if info["dtype"] != "F16" or len(info["shape"]) != 2:
            raise ValueError(f"{key}: the rows have another shape")
        found[key] = StoredRows(stored, 8 + length + info["data_offsets"][0], tuple(info["shape"]))
    return found


@dataclass(frozen=True, eq=False)
class MergedRows:
    """A uniform sample of the union of two: each part gives rows in proportion to the rows that it stands for.

    Attributes:
        seen_a, seen_b: of how many rows ``a`` and ``b`` are samples.
    """

    a: Rows
    b: Rows
    seen_a: int
    seen_b: int

    @property
    def shape(self) -> tuple[int, int]:
        return sum(self._parts()[:2]), int(self.a.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def tensor(self) -> torch.Tensor:
        """Made each time; the same every time."""
        from_a, from_b, generator = self._parts()
        merged = torch.empty(from_a + from_b, self.a.shape[1], dtype=torch.float16)
        for part, place in ((self.a, merged[:from_a]), (self.b, merged[from_a:])):
            chosen = torch.randperm(len(part), generator=generator)[: len(place)]
            torch.index_select(tensor_of(part), 0, chosen, out=place)
        return merged

    def _parts(self) -> tuple[int, int, torch.Generator]:
        seen = self.seen_a + self.seen_b
        size = min(max(len(self.a), len(self.b)), seen)
        # Drawing without replacement from the union takes a hypergeometric number of rows from each part; for
        # a thousand rows of millions that is binomial. Seeded by the counts: merging is deterministic.
        generator = torch.Generator().manual_seed(self.seen_a * 31 + self.seen_b)
        wanted = int((torch.rand(size, generator=generator) < self.seen_a / seen).sum())
        from_a = max(size - len(self.b), min(wanted, len(self.a)))
        return from_a, min(size - from_a, len(self.b)), generator


Rows: TypeAlias = torch.Tensor | StoredRows | MergedRows
"""A layer's sample, float16 [R, K], wherever it is."""


def tensor_of(rows: Rows) -> torch.Tensor:
    """The rows in memory."""
    return rows if isinstance(rows, torch.Tensor) else rows.tensor()
