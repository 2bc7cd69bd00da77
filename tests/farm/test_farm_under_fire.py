"""Twenty checkpoints on a Ray cluster of two nodes, and kill -9 at fifty random moments: ``nox -s farm``, half an hour.

Killed are workers, their ComfyUI servers, whole nodes, and the driver. In the end everything is there, byte for byte as
the local executor makes it, nothing that was finished was made again, and nothing is left behind.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.farm.cluster import TwoNodes
from tests.farm.processes import kill, servers_of, starters_of
from tests.farm.small_farm import SmallFarm, make_base

CHECKPOINTS = int(os.environ.get("HSWQ_FARM_CHECKPOINTS", "20"))
KILLS = int(os.environ.get("HSWQ_FARM_KILLS", "50"))
SHARDS = 4

pytestmark = pytest.mark.stress


def test_fifty_deaths_change_nothing(comfyui: Path, tmp_path: Path) -> None:
    base, rng = make_base(comfyui, tmp_path / "base"), random.Random(0)
    local = SmallFarm(tmp_path / "local", comfyui, base, checkpoints=CHECKPOINTS, shards=SHARDS, proof=False)
    began = time.monotonic()
    local.run("--quiet", str(local.recipe))
    alone = time.monotonic() - began
    farm = SmallFarm(
        tmp_path / "farm", comfyui, base, checkpoints=CHECKPOINTS, models=local.folder / "models", shards=SHARDS,
        proof=False, attempts=3,
    )  # fmt: skip
    cluster, deaths = TwoNodes(farm.environment()), Counter[str]()
    try:
        running: subprocess.Popen[bytes] | None = None
        while deaths.total() < KILLS:
            if running is None or running.poll() is not None:
                running = farm.start("--quiet", "--ray", cluster.address, str(farm.recipe))
            time.sleep(rng.uniform(2, 9))
            kind, servers = rng.choice(["server", "server", "worker", "worker", "node", "driver"]), servers_of(tmp_path)
            if kind == "driver":
                kill(running.pid)
                running.wait()
            elif kind == "node":
                cluster.kill_one(rng)
            elif victims := servers if kind == "server" else starters_of(servers):
                kill(rng.choice(victims))
            else:
                continue
            deaths[kind] += 1
        if running is not None and running.poll() is None:
            running.wait(1800)
        farm.run("--quiet", "--ray", cluster.address, str(farm.recipe))
    finally:
        cluster.stop()
    assert farm.digests() == local.digests()
    finished = farm.finished()
    assert len(finished) == len(set(finished)) and not farm.leftovers() and not servers_of(tmp_path)
    print(f"{len(finished)} tasks, {dict(deaths)} killed; the local executor alone took {alone:.0f} s")


def test_two_workers_on_two_cores_are_as_fast_as_one_after_another(comfyui: Path, tmp_path: Path) -> None:
    """Ray's own cost, and that of a second server, are small beside the work."""
    base, seconds = make_base(comfyui, tmp_path / "base"), dict[str, float]()
    local = SmallFarm(tmp_path / "local", comfyui, base, checkpoints=6, shards=SHARDS, proof=False)
    farm = SmallFarm(
        tmp_path / "ray", comfyui, base, checkpoints=6, models=local.folder / "models", shards=SHARDS, proof=False
    )
    for name, each, words in (("local", local, ()), ("ray", farm, ("--ray", "--workers", "2"))):
        began = time.monotonic()
        each.run("--quiet", *words, str(each.recipe))
        seconds[name] = time.monotonic() - began
    print(f"local {seconds['local']:.0f} s, Ray with two workers {seconds['ray']:.0f} s")
    assert seconds["local"] / seconds["ray"] >= 0.85
