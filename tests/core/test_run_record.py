"""The page of versions says what the record of runs says."""

from dataclasses import replace
from pathlib import Path

from showcase.compatibility import PAGE, page
from tests.support.run_record import add, recorded, this_run


def test_the_page_is_that_of_the_record() -> None:
    assert recorded(), "no run is recorded"
    assert PAGE.read_text(encoding="utf-8") == page(recorded())


def test_a_newer_run_takes_the_place_of_an_older_one_of_the_same(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    first = this_run("unit", 10, 1, 0)
    other = replace(first, python="3.10.1")
    for run in (first, other, replace(first, passed=11, failed=0)):
        add(run, file)
    assert recorded(file) == sorted([other, replace(first, passed=11, failed=0)], key=lambda run: run.place)
    assert "| 11 | 0 | 0 |" in page(recorded(file))
