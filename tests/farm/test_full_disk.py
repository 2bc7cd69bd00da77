"""A node whose disk is full: what it says, and that another node does its work. Part of ``nox -s farm``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.farm.cluster import TwoNodes
from tests.farm.small_farm import SmallFarm, make_base

pytestmark = pytest.mark.stress


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, which takes the right to mount one."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_node_with_a_full_disk_says_so_and_another_does_its_work(
    comfyui: Path, tmp_path: Path, small_disk: Path
) -> None:
    base = make_base(comfyui, tmp_path / "base")
    local = SmallFarm(tmp_path / "local", comfyui, base, checkpoints=2, proof=False)
    local.run("--quiet", str(local.recipe))
    hasty, patient = (
        SmallFarm(
            tmp_path / name, comfyui, base, checkpoints=2, models=local.folder / "models", proof=False,
            attempts=attempts,
        )
        for name, attempts in (("hasty", 1), ("patient", 2))
    )  # fmt: skip
    cluster = TwoNodes(hasty.environment(), {"TMPDIR": str(small_disk)})
    try:
        done = hasty.run("--json", "--ray", cluster.address, str(hasty.recipe), code=1)
        patient.run("--quiet", "--ray", cluster.address, str(patient.recipe))
    finally:
        cluster.stop()
    failed = [outcome for outcome in json.loads(done.stdout)["outcomes"] if outcome["error"] and not outcome["skipped"]]
    assert failed and all(
        "bytes are needed" in outcome["error"] or "No space left on device" in outcome["error"] for outcome in failed
    ), [outcome["error"] for outcome in failed]
    assert patient.digests() == local.digests() and not patient.leftovers()
