"""Sessions over many runs and through sudden deaths: exact to seven digits, no run lost or counted twice."""

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hswq_core.calibration import DualMonitor, Statistics, load_statistics, save_statistics
from hswq_core.calibration.session import CalibrationSession
from hswq_core.fingerprint import Fingerprint
from tests.core.capabilities import process_of

FINGERPRINT = Fingerprint.of(["0"], lambda _name, at: [1.0] * len(at))


def one_run(number: int) -> Statistics:
    """A run whose every input is ``number + 1``."""
    layer = torch.nn.Sequential(torch.nn.Linear(512, 4))
    with torch.no_grad(), DualMonitor(layer, 256) as monitor:
        layer(torch.full((300, 512), number + 1.0))
    return replace(monitor.statistics(), runs=1, samples=1, steps=1)


def calibrate(path: Path, log: Path) -> None:
    """Two hundred runs, each with a line in the log when it is written."""
    torch.set_num_threads(1)
    session = CalibrationSession.open(path, FINGERPRINT)
    for _ in range(200):
        session.add_run(replace(one_run(session.statistics.runs), fingerprint=FINGERPRINT))
        with log.open("a") as file:
            file.write("finished\n")


def test_means_of_256_drifting_runs_are_exact_to_seven_digits(tmp_path: Path) -> None:
    layer, generator = torch.nn.Linear(32, 8), torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(layer)
    session = CalibrationSession(tmp_path / "s.safetensors", FINGERPRINT)
    sums, outputs, rows = torch.zeros(3, 32, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0
    with torch.no_grad():
        for _run in range(256):
            with DualMonitor(net) as monitor:
                for step in range(25):
                    x = (torch.randn(16, 32, generator=generator) * (1 + step) + 3 * step).half().float()
                    y = net(x)
                    wide = x.double()
                    sums += torch.stack([wide.abs().sum(0), wide.sum(0), wide.square().sum(0)])
                    outputs += torch.stack([y.double().sum(), y.double().square().sum()])
                    rows += 16
            session.add_run(replace(monitor.statistics(), runs=1))
    save_statistics(session.statistics, session.path)
    found = load_statistics(session.path).layers["0"]
    for got, expected in ((found.importance, sums[0]), (found.mean, sums[1]), (found.second_moment, sums[2])):
        assert ((got - expected / rows).abs() / (expected / rows).abs()).max() < 1e-6
    mean, square = (outputs / (rows * 8)).tolist()
    assert abs(found.sensitivity / (square - mean**2) - 1) < 1e-5


def test_a_killed_calibration_loses_no_finished_run_and_counts_none_twice(tmp_path: Path) -> None:
    path, log, chance = tmp_path / "s.safetensors", tmp_path / "log", random.Random(0)
    killed = 0
    while killed < 10:
        began = log.stat().st_size if log.exists() else 0
        process = process_of("tests.core.test_sessions", calibrate, path, log)
        process.start()
        while process.is_alive() and (log.stat().st_size if log.exists() else 0) == began:
            time.sleep(0.002)  # until its first run is in
        time.sleep(chance.random() * 0.05)
        killed += process.is_alive()
        process.kill()
        process.join()
        logged = len(log.read_text().split())
        found = load_statistics(path)
        assert logged <= found.runs <= logged + 1
        assert found.layers["0"].input_rows == 300 * found.runs
        expected = sum(range(1, found.runs + 1)) / found.runs
        assert torch.allclose(
            found.layers["0"].importance, torch.full((512,), expected, dtype=torch.float64), rtol=1e-6
        )
        if found.runs > logged:  # the run in flight was written, only its log line was not
            with log.open("a") as file:
                file.write("finished\n")
    assert len(list(tmp_path.glob(".*.tmp"))) <= 1  # what the killed ones left is gone


def test_long_writes_are_spared_and_nothing_is_left_unwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, writes = tmp_path / "s.safetensors", []

    def slow(statistics: Statistics, target: Path) -> None:
        time.sleep(0.1)
        writes.append(statistics.runs)
        save_statistics(statistics, target)

    monkeypatch.setattr("hswq_core.calibration.session.save_statistics", slow)
    session = CalibrationSession.open(path, FINGERPRINT)
    with pytest.raises(KeyboardInterrupt), session.fewer_writes():
        for number in range(6):
            session.add_run(replace(one_run(number), fingerprint=FINGERPRINT))
        raise KeyboardInterrupt
    assert writes == [1, 6] and load_statistics(path).runs == 6
    session.add_run(replace(one_run(6), fingerprint=FINGERPRINT))
    assert writes == [1, 6, 7]

    # Where writing takes no time, every run is written at once.
    monkeypatch.undo()
    session.add_run(replace(one_run(7), fingerprint=FINGERPRINT))
    with session.fewer_writes():
        for number in (8, 9):
            time.sleep(0.5)
            session.add_run(replace(one_run(number), fingerprint=FINGERPRINT))
            assert load_statistics(path).runs == number + 1


def test_runs_that_wait_for_a_slow_disk_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = CalibrationSession.open(tmp_path / "session.safetensors", FINGERPRINT)
    run = replace(one_run(0), fingerprint=FINGERPRINT)
    session.add_run(run)
    monkeypatch.setattr("hswq_core.calibration.session._WRITE_INTERVAL", 1e9)
    with session.fewer_writes():
        session.add_run(run)
        assert load_statistics(session.path).runs == 1
        monkeypatch.setattr("hswq_core.calibration.session._MAX_PENDING_BYTES", 1)
        session.add_run(run)
        assert load_statistics(session.path).runs == 3
