"""Sessions as transactions: several processes and objects at one file, runs that would spoil it, resets."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hswq_core.calibration import Statistics, load_statistics
from hswq_core.calibration.coverage import coverage_warnings
from hswq_core.calibration.session import CalibrationSession
from hswq_core.errors import StatisticsError
from hswq_core.fingerprint import Fingerprint
from tests.core.capabilities import process_of
from tests.core.test_sessions import FINGERPRINT, one_run

OTHER = Fingerprint.of(["0"], lambda _name, at: [2.0] * len(at))


def run_of(fingerprint: Fingerprint = FINGERPRINT, number: int = 0) -> Statistics:
    return replace(one_run(number), fingerprint=fingerprint)


def add_runs(path: Path, number: int) -> None:
    session = CalibrationSession.open(path, FINGERPRINT)
    run = run_of(number=number)
    for _ in range(25):
        session.add_run(run)


def test_three_processes_lose_no_run_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    writers = [process_of("tests.core.test_transactions", add_runs, path, number) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    found = load_statistics(path)
    assert found.runs == 75 and found.layers["0"].input_rows == 75 * 300
    # 25 runs of ones, of twos and of threes.
    assert torch.allclose(found.layers["0"].importance, torch.full((512,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["inputs", "outputs", "rows"])
def test_a_run_that_is_not_finite_is_left_out_and_counted(tmp_path: Path, value: float, where: str) -> None:
    session = CalibrationSession.open(tmp_path / "s.safetensors", FINGERPRINT)
    session.add_run(run_of())
    bad = run_of().layers["0"]
    if where == "inputs":
        bad.input_sums[1, 7] = value
    elif where == "outputs":
        bad.output_sums[2] = value
    else:
        assert bad.rows is not None
        bad.rows[3, 3] = value
    session.add_run(replace(run_of(), layers={"0": bad}))
    session.add_run(run_of())
    found = load_statistics(session.path)
    assert found.runs == 2 and not found.not_finite()
    assert found.left_out == {"NaN or infinity in the layer 0": 1}
    assert "1 run was left out: NaN or infinity in the layer 0" in coverage_warnings(found)


def test_a_run_without_layers_is_left_out_and_said(tmp_path: Path) -> None:
    session = CalibrationSession.open(tmp_path / "s.safetensors", FINGERPRINT)
    session.add_run(Statistics(layers={}, runs=1, fingerprint=FINGERPRINT))
    with pytest.raises(StatisticsError, match="1 left out: no layer of the model ran"):
        session.statistics.check_not_empty()


def test_another_model_may_take_a_session_without_runs_but_not_join_one(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    first = CalibrationSession.open(path, FINGERPRINT)
    second = CalibrationSession.open(path, OTHER)
    assert second is first
    with pytest.raises(StatisticsError, match="another model"):
        second.check_model(FINGERPRINT)  # as the first model's next run does, before it begins
    second.add_run(run_of(OTHER))
    with pytest.raises(StatisticsError, match="another model"):
        CalibrationSession.open(path, FINGERPRINT)
    with pytest.raises(StatisticsError, match="different models"):
        second.add_run(run_of())
    second.add_run(run_of(OTHER))
    assert load_statistics(path).runs == 2


def test_a_reset_elsewhere_is_seen_and_looking_at_a_file_undoes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    session = CalibrationSession.open(path, FINGERPRINT)
    session.add_run(run_of())
    before = load_statistics(path)
    path.unlink()  # another process resets
    session.add_run(run_of())
    assert before.runs == 1 and load_statistics(path).runs == 1 and session.statistics.runs == 1
    CalibrationSession.open(path, FINGERPRINT, reset=True)
    assert not path.exists() and session.statistics.runs == 0


def test_measurements_stand_beside_each_other_and_beside_new_runs(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    session = CalibrationSession.open(path, FINGERPRINT)
    session.add_run(run_of())
    session.add_impacts({"0": 0.5}, "v2 calibrated")
    session.add_impacts({}, "v1 nearest")
    session.add_impacts({"0": 0.25}, "v1 nearest")
    session.add_run(run_of())
    found = load_statistics(path)
    assert found.runs == 2 and found.purposes == ("v1 nearest", "v2 calibrated")
    assert found.impacts("v2 calibrated") == {"0": 0.5} and found.impacts("v1 nearest") == {"0": 0.25}


def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    session = CalibrationSession.open(tmp_path / "s.safetensors", FINGERPRINT)
    session.add_run(run_of())
    (tmp_path / "other").touch()
    assert session.path.stat().st_mode == (tmp_path / "other").stat().st_mode
