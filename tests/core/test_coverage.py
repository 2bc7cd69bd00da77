"""Warnings of what a calibration did not see; an expert is asked for its own part of the schedule alone."""

from hswq_core.calibration import Statistics
from hswq_core.calibration.coverage import coverage_warnings


def noise_warnings(levels: str, *, runs: int = 4, partial_runs: int = 0) -> list[str]:
    counts = tuple(map(int, levels.split()))
    statistics = Statistics({}, runs=runs, samples=32, partial_runs=partial_runs, noise_levels=counts)
    return [warning for warning in coverage_warnings(statistics) if "noise levels" in warning]


def test_a_whole_model_is_asked_for_the_whole_schedule() -> None:
    assert not noise_warnings("1 1 1 1 1 1 1 1 1 1")
    (warning,) = noise_warnings("2 2 2 2 2 0 0 0 0 0")
    assert "50-60 %" in warning and "full denoise" in warning


def test_an_expert_is_asked_for_its_own_part() -> None:
    assert not noise_warnings("0 0 0 0 0 0 0 0 3 3", partial_runs=4)
    assert not noise_warnings("3 3 3 3 3 3 3 3 0 0", partial_runs=4)
    (warning,) = noise_warnings("3 0 3 3 3 3 3 3 0 0", partial_runs=4)
    assert "10-20 %; sample with more steps" in warning and "90-100" not in warning
    assert noise_warnings("3 3 3 0 0 0 0 0 0 0", partial_runs=3), "one run had the whole schedule to cover"
