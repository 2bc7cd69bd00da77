"""Many sessions merged: in time that is linear in their bytes, to a uniform sample of all rows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.sdxl_shapes import sdxl_unet
from hswq_core.calibration import LayerStatistics, Statistics, load_statistics, save_statistics
from hswq_core.calibration.rows import MergedRows, StoredRows, tensor_of
from hswq_core.calibration.statistics import merge
from hswq_core.fingerprint import Fingerprint

ROWS = 16


def of_sdxl(number: int, every: int) -> Statistics:
    """A session with SDXL's layers, or every n-th of them."""
    shapes = [(name, shape) for name, shape in sdxl_unet().items() if len(shape) > 1][::every]
    generator = torch.Generator().manual_seed(number)
    output = torch.tensor([100.0, 0.0, 100.0], dtype=torch.float64)

    def layer(shape: tuple[int, ...]) -> LayerStatistics:
        sums = torch.ones(3, shape[1], dtype=torch.float64) * 10_000
        rows = torch.randn(ROWS, torch.Size(shape[1:]).numel(), generator=generator).half()
        return LayerStatistics(10_000, sums, output, rows, shape=tuple(shape))

    fingerprint = Fingerprint.of([name for name, _ in shapes], lambda _name, at: [0.5] * len(at))
    return Statistics({name: layer(shape) for name, shape in shapes}, 1, 1, 25, fingerprint)


@pytest.mark.parametrize(
    ("sessions", "every"), [(24, 40), pytest.param(64, 1, marks=pytest.mark.stress)], ids=["few layers", "SDXL"]
)
def test_sessions_merge_in_the_time_of_reading_and_writing_them(tmp_path: Path, sessions: int, every: int) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(sessions)]
    for number, path in enumerate(paths):
        save_statistics(of_sdxl(number, every), path)

    def copies() -> Iterator[Statistics]:
        for path in paths:
            yield load_statistics(path)

    began = time.perf_counter()
    for part in copies():
        save_statistics(part, tmp_path / "copy.safetensors")
    reading_and_writing = time.perf_counter() - began

    began = time.perf_counter()
    total = merge(copies())
    save_statistics(total, tmp_path / "sum.safetensors")
    found = load_statistics(tmp_path / "sum.safetensors")
    spent = time.perf_counter() - began
    print(f"{sessions} sessions: read and written in {reading_and_writing:.1f} s, merged in {spent:.1f} s")
    assert spent <= 1.5 * reading_and_writing
    assert found.runs == sessions
    for name, layer in found.layers.items():
        assert layer.input_rows == sessions * 10_000 and layer.rows is not None and len(layer.rows) == ROWS
        assert torch.equal(tensor_of(layer.rows), tensor_of(total.layers[name].rows))


def numbered(first: int, count: int) -> torch.Tensor:
    """Rows that say which part they are of, and which row of it."""
    return torch.stack([torch.full((count,), float(first)), torch.arange(count, dtype=torch.float32)], dim=1).half()


def test_a_merger_of_several_is_a_uniform_sample_of_all_rows() -> None:
    """Over many counts (each seeds its own draw) every part has its share, and each of its rows the same chance."""
    trials, size = 1500, 32
    share = [5, 1, 3, 1, 10]  # in this proportion
    drawn, rows = torch.zeros(len(share)), torch.zeros(len(share), size)
    for trial in range(trials):
        seen = [part * (1000 + trial) for part in share]
        merged: torch.Tensor | StoredRows | MergedRows = numbered(0, size)
        for number in range(1, len(share)):
            merged = MergedRows.of(merged, numbered(number, size), sum(seen[:number]), seen[number])
        found = tensor_of(merged)
        assert len(found.unique(dim=0)) == len(found) == size == len(merged)  # none twice
        for part, row in found.long().tolist():
            drawn[part] += 1
            rows[part, row] += 1
    expected = torch.tensor(share) / sum(share) * size * trials
    assert ((drawn - expected).abs() < 5 * expected.sqrt()).all()
    each = (expected / size)[:, None]
    assert ((rows - each).square() / each).sum() < 160 + 5 * (2 * 160) ** 0.5  # chi squared with 160 cells


def test_parts_that_are_short_give_all_they_have() -> None:
    merged = MergedRows((numbered(0, 2), numbered(1, 30), numbered(2, 1), numbered(3, 30)), (10**6, 10, 10**6, 10))
    counts = merged.tensor()[:, 0].long().bincount(minlength=4).tolist()
    assert sum(counts) == 30 and counts[0] == 2 and counts[2] == 1 and min(counts[1], counts[3]) > 5


@pytest.mark.parametrize(
    ("rows", "seen"), [((20, 30), (1000, 4000)), ((2, 30), (10**9, 3)), ((16, 16), (16, 0)), ((5, 4), (5, 4))]
)
def test_of_two_the_same_rows_are_drawn_as_ever(rows: tuple[int, int], seen: tuple[int, int]) -> None:
    """Files that were made from two runs can be made again to the bit."""
    a, b = numbered(0, rows[0]), numbered(1, rows[1])
    size = min(max(rows), sum(seen))
    generator = torch.Generator().manual_seed(seen[0] * 31 + seen[1])
    wanted = int((torch.rand(size, generator=generator) < seen[0] / sum(seen)).sum())
    from_a = max(size - len(b), min(wanted, len(a)))
    first = a[torch.randperm(len(a), generator=generator)[:from_a]]
    second = b[torch.randperm(len(b), generator=generator)[: size - from_a]]
    assert torch.equal(MergedRows.of(a, b, *seen).tensor(), torch.cat([first, second]))


def test_many_sessions_are_not_all_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / "session.safetensors", []
    save_statistics(of_sdxl(0, 200), path)
    plain = os.open

    def counted(file: str | Path, *arguments: int) -> int:
        opened.append(file)
        return plain(file, *arguments)

    monkeypatch.setattr(os, "open", counted)
    loaded = [load_statistics(path) for _ in range(80)]
    assert 0 < opened.count(path) <= 64
    rows = [next(iter(each.layers.values())).rows for each in (loaded[0], loaded[-1])]
    assert torch.equal(*(tensor_of(each) for each in rows if each is not None))
