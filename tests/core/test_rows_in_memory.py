"""Sampled rows go from the device to RAM as they come, and from files to whoever needs them, in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.sdxl_shapes import sdxl_unet
from hswq_core.calibration import DualMonitor, Statistics, load_statistics, row_sampling, save_statistics
from hswq_core.calibration.accumulators.bank import SumBank
from hswq_core.calibration.host_copy import HostCopy
from hswq_core.calibration.monitor import DEVICE_MEMORY
from hswq_core.calibration.rows import MergedRows, StoredRows, tensor_of
from hswq_core.errors import StatisticsError
from tests.core.capabilities import needs_memory_counters
from tests.core.conftest import Example, make_example
from tests.core.small_nets import inputs, make_net

ROOT = Path(__file__).resolve().parents[2]


class FarCopy(HostCopy):
    """Takes the CPU for a device whose memory is not RAM, and counts what is under way on it."""

    most = 0

    def needs_copy(self, device: torch.device) -> bool:
        return True

    def send(self, rows: torch.Tensor, target: torch.Tensor) -> None:
        assert rows.shape == target.shape
        type(self).most = max(type(self).most, rows.nbytes)
        super().send(rows, target)


def measured(rows: int, calls: int) -> Statistics:
    net = make_net()
    with torch.no_grad(), DualMonitor(net, rows, seed=3, expected_calls=2) as attached:
        for x in inputs(calls):
            net(x)
    return attached.statistics()


@pytest.mark.parametrize("calls", [2, 7])
def test_rows_that_travel_are_the_rows_that_stay(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    near = measured(16, calls)
    monkeypatch.setattr(row_sampling, "HostCopy", FarCopy)
    far = measured(16, calls)
    assert near.layers.keys() == far.layers.keys()
    for name, layer in near.layers.items():
        other = far.layers[name]
        assert torch.equal(layer.input_sums, other.input_sums) and torch.equal(layer.output_sums, other.output_sums)
        assert (layer.rows is None) == (other.rows is None)
        if layer.rows is not None and other.rows is not None:
            assert torch.equal(tensor_of(layer.rows), tensor_of(other.rows)), name
    assert FarCopy.most > 0


def test_what_measuring_takes_of_a_card_is_what_comfyui_is_asked_for() -> None:
    """SDXL at 1024 x 1024 with 1,024 rows in 25 steps: sums of all layers, and the rows of one layer's call."""
    shapes = {name: shape for name, shape in sdxl_unet().items() if len(shape) > 1}
    bank = SumBank({name: shape[1] for name, shape in shapes.items()}, torch.device("meta"))
    sums = sum(value.numel() * 8 for value in vars(bank).values() if isinstance(value, torch.Tensor))
    each = max(2 * -(-1024 // 25) * torch.Size(shape[1:]).numel() for shape in shapes.values())
    assert sums <= 64 << 20 and each <= 64 << 20
    assert sums + each <= DEVICE_MEMORY


def test_rows_stay_in_the_file_until_they_are_needed(example: Example, tmp_path: Path) -> None:
    loaded = load_statistics(example.statistics_path)
    name, layer = next((n, e) for n, e in loaded.layers.items() if e.rows is not None)
    assert isinstance(layer.rows, StoredRows) and layer.rows.shape == example.statistics.layers[name].rows.shape
    assert torch.equal(layer.rows.tensor(), tensor_of(example.statistics.layers[name].rows))
    # Another file in its place, as a session's next run makes one, does not change what was loaded.
    (tmp_path / "other").mkdir()
    make_example(tmp_path / "other", seed=1)
    os.replace(tmp_path / "other" / "stats1.safetensors", example.statistics_path)
    assert torch.equal(layer.rows.tensor(), tensor_of(example.statistics.layers[name].rows))


def test_a_file_that_is_cut_short_meanwhile_is_told(example: Example) -> None:
    loaded = load_statistics(example.statistics_path)
    os.truncate(example.statistics_path, 200)
    with pytest.raises(StatisticsError, match="changed while they were in use"):
        for layer in loaded.layers.values():
            if layer.rows is not None:
                tensor_of(layer.rows)


def test_a_merger_is_made_when_it_is_asked_for_and_always_the_same(example: Example, tmp_path: Path) -> None:
    total = example.statistics + load_statistics(example.statistics_path)
    merged = next(layer.rows for layer in total.layers.values() if layer.rows is not None)
    assert isinstance(merged, MergedRows) and torch.equal(merged.tensor(), merged.tensor())
    assert merged.tensor().shape == merged.shape
    save_statistics(total, tmp_path / "sum.safetensors")
    stored = load_statistics(tmp_path / "sum.safetensors")
    for name, layer in total.layers.items():
        if layer.rows is not None:
            assert torch.equal(tensor_of(layer.rows), tensor_of(stored.layers[name].rows))


_SECOND_RUN = """
import sys, torch
from pathlib import Path
from benchmarks.memory import resident
from hswq_core.calibration import LayerStatistics, Statistics
from hswq_core.calibration.session import CalibrationSession
from hswq_core.fingerprint import Fingerprint

LAYERS, ROWS, WIDTH = 64, 1024, 2048  # 256 MB

def run(share):
    def layer(number):
        rows = torch.randn(int(ROWS * share), WIDTH, generator=torch.Generator().manual_seed(number)).half()
        sums = torch.ones(3, WIDTH, dtype=torch.float64) * 10000
        return LayerStatistics(10000, sums, torch.tensor([100.0, 0.0, 100.0], dtype=torch.float64), rows)
    layers = {f"layer{number}": layer(number) for number in range(LAYERS)}
    return Statistics(layers, runs=1, samples=1, steps=25, fingerprint=fingerprint)

fingerprint = Fingerprint.of([f"layer{n}" for n in range(LAYERS)], lambda _name, positions: [0.5] * len(positions))
session = CalibrationSession.open(Path(sys.argv[1]), fingerprint)
if len(sys.argv) > 2:
    session.add_run(run(1.0))
else:
    base = resident("VmRSS")
    session.add_run(run(0.56))  # the share that a second run draws
    size = Path(sys.argv[1]).stat().st_size
    print((resident("VmHWM") - base) / size)
"""


@needs_memory_counters
def test_a_second_run_takes_little_more_memory_than_the_session(tmp_path: Path) -> None:
    """A session of a quarter of a gigabyte; asked is a peak of 1.3 times its size above the base."""

    def process(*more: str) -> str:
        command = [sys.executable, "-c", _SECOND_RUN, str(tmp_path / "session.safetensors"), *more]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300).stdout

    process("first")
    assert 0.3 < float(process()) < 1.3


def test_rows_are_waited_for_on_the_card_that_they_are_copied_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may be on another card than the current one, or on several: each one's copies end in a stream of its."""
    waited = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def record_event(self) -> Stream:
            return self

        def synchronize(self) -> None:
            waited.append(self.device)

    class Rows:
        """Rows on a card, as far as a copy asks."""

        shape, dtype = torch.Size([2, 3]), torch.float16

        def __init__(self, device: str) -> None:
            self.device = torch.device(device)

    class Pinned(torch.Tensor):
        def copy_(self, source: object, non_blocking: bool = False) -> torch.Tensor:  # type: ignore[override]
            assert non_blocking
            return self.fill_(7)

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    plain = torch.empty

    def pinned(*shape: object, pin_memory: bool = False, **more: object) -> torch.Tensor:
        made = plain(*shape, **more)  # type: ignore[call-overload]
        return made.as_subclass(Pinned) if pin_memory else made

    monkeypatch.setattr(torch, "empty", pinned)
    copies, target = HostCopy(), torch.zeros(2, 2, 3, dtype=torch.float16)
    for card in range(2):
        copies.send(Rows(f"cuda:{card}"), target[card])  # type: ignore[arg-type]
    copies.wait()
    assert sorted(device.index for device in waited) == [0, 1] and bool((target == 7).all())
