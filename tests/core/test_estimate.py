"""What a file will take, told before it is written: the same figures as afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hswq_core.cli import main
from hswq_core.estimate import Estimate, free_bytes
from hswq_core.sizes import size_in_words
from tests.core.conftest import Example


def test_a_dry_run_tells_size_disk_and_memory(
    example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.safetensors"
    words = ["quantize", str(example.path), str(target), "--mode", "v2", "--stats", str(example.statistics_path)]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert main([*words, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not target.exists()
    assert main(words) == 0
    size = target.stat().st_size
    assert planned["bytes"] == planned["estimate"]["nbytes"] == size
    assert said.startswith(f"needs {size_in_words(size)} of disk (") and "of memory while layers are rounded" in said
    assert planned["estimate"]["disk_free"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert planned["estimate"]["memory"] > 0


def test_a_full_disk_is_told() -> None:
    assert "(1.00 GB free: not enough)" in str(Estimate(nbytes=2 * 10**9, disk_free=10**9, memory=1))


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


@pytest.mark.parametrize(("nbytes", "said"), [(4_400_000_000, "4.40 GB"), (11_530_000, "11.53 MB"), (0, "0.00 MB")])
def test_sizes_are_said_in_decimal_units(nbytes: int, said: str) -> None:
    assert size_in_words(nbytes) == said
