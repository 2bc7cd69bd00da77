"""Sampled rows that are not in memory: read from a statistics file, or merged from two samples, when they are needed.

The rows of SDXL are gigabytes. A session leaves them in the file, and one layer's rows are read at a time.
"""

from __future__ import annotations

import json
import os
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeAlias
from weakref import WeakSet

import torch

from ..errors import StatisticsError
from ..files.long_path import long_path
from ..files.source import FileIdentity

SAMPLES = (".rows", ".patches")
"""How keys of samples end: rows of a layer's input, or patches of a convolution with a kernel larger than one."""
_BYTES = 2  # of a float16
_MAX_OPEN_FILES = 64
"""Files kept open at once; macOS allows a process 256 descriptors, and hundreds of sessions may be merged."""


class StoredFile:
    """A statistics file whose rows are read later.

    Where a file that is open can be replaced it is kept open, and what is read stays what it was. On Windows, and
    when many are open, it is opened for every read; if it was replaced, reading says so.
    """

    _kept: ClassVar[WeakSet[StoredFile]] = WeakSet()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = long_path(path)
        self._identity = FileIdentity.of(path, os.stat(self._place))
        self._open: int | None = None
        if os.name != "nt" and len(self._kept) < _MAX_OPEN_FILES:
            self._open = os.open(self._place, os.O_RDONLY)
            self._kept.add(self)
            weakref.finalize(self, os.close, self._open)

    def read(self, begin: int, count: int) -> bytearray:
        """Errors: StatisticsError when the file was replaced or became shorter."""
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
            with self._place.open("rb") as file:
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
    with long_path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    stored, found = StoredFile(path), {}
    for key, info in header.items():
        if not key.endswith(SAMPLES):
            continue
        if info["dtype"] != "F16" or len(info["shape"]) != 2:
            raise ValueError(f"{key}: the rows have another shape")
        found[key] = StoredRows(stored, 8 + length + info["data_offsets"][0], tuple(info["shape"]))
    return found


@dataclass(frozen=True, eq=False)
class MergedRows:
    """A uniform sample of the union of several: each part gives rows in proportion to how many it has seen.

    Attributes:
        parts: samples of one width, and not mergers themselves, so that each part is read once.
        seen: of how many rows each part is a sample.
    """

    parts: tuple[torch.Tensor | StoredRows, ...]
    seen: tuple[int, ...]

    @staticmethod
    def of(a: Rows, b: Rows, seen_a: int, seen_b: int) -> MergedRows:
        """The union of what ``a`` and ``b`` are samples of; the parts of a merger stay parts."""
        (parts_a, of_a), (parts_b, of_b) = _parts(a, seen_a), _parts(b, seen_b)
        return MergedRows(parts_a + parts_b, of_a + of_b)

    @property
    def width(self) -> int:
        """K, without drawing."""
        return int(self.parts[0].shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        return self._size, self.width

    def __len__(self) -> int:
        return self._size

    def tensor(self) -> torch.Tensor:
        """Computed at each call, with the same result."""
        counts, generator = self._drawn()
        merged = torch.empty(self.shape, dtype=torch.float16)
        for part, place in zip(self.parts, merged.split(counts), strict=True):
            chosen = torch.randperm(len(part), generator=generator)[: len(place)]
            if len(chosen):
                torch.index_select(tensor_of(part), 0, chosen, out=place)
        return merged

    @cached_property
    def _size(self) -> int:
        return min(max(map(len, self.parts)), sum(self.seen))

    def _drawn(self) -> tuple[list[int], torch.Generator]:
        """How many rows each part gives, and the generator that chooses which."""
        # Drawing without replacement from the union takes a multivariate hypergeometric number of rows from each
        # part; for a thousand rows of millions that is multinomial. Seeded by the counts: merging is deterministic.
        seed = 0
        for seen in self.seen:
            seed = (seed * 31 + seen) % (1 << 63)
        generator = torch.Generator().manual_seed(seed)
        room = torch.tensor([len(part) for part in self.parts])
        weights = torch.tensor(self.seen, dtype=torch.float64)
        counts, able = torch.zeros_like(room), torch.arange(len(room))
        while missing := self._size - int(counts.sum()):
            edges = weights[able].cumsum(0)[:-1] / weights[able].sum()
            # With one part that has room there is nothing to draw.
            drawn = torch.rand(missing, generator=generator) if len(edges) else torch.zeros(missing)
            found = torch.bucketize(drawn, edges.float(), right=True).bincount(minlength=len(able))
            counts[able] = torch.minimum(counts[able] + found, room[able])
            # A part that has fewer rows than were drawn from it gave all; the rest is drawn from the others.
            able = (counts < room).nonzero().flatten()
        return counts.tolist(), generator


Rows: TypeAlias = torch.Tensor | StoredRows | MergedRows
"""A layer's sample, float16 [R, K], wherever it is."""


def tensor_of(rows: Rows) -> torch.Tensor:
    """The rows in memory."""
    return rows if isinstance(rows, torch.Tensor) else rows.tensor()


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether a float tensor holds neither NaN nor infinity: its extremes tell, 25 times as fast as a mask."""
    return not tensor.numel() or all(bool(value.isfinite()) for value in tensor.aminmax())


def width_of(rows: Rows) -> int:
    """K of rows [R, K]."""
    return rows.width if isinstance(rows, MergedRows) else int(rows.shape[1])


def _parts(rows: Rows, seen: int) -> tuple[tuple[torch.Tensor | StoredRows, ...], tuple[int, ...]]:
    return (rows.parts, rows.seen) if isinstance(rows, MergedRows) else ((rows,), (seen,))
