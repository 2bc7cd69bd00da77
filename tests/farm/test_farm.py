"""The farm on real ComfyUI servers: any executor and any death give the same bytes, and nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hswq_core import inspect
from tests.farm.processes import kill, servers_of, wait_for
from tests.farm.small_farm import SmallFarm, make_base


@pytest.fixture(scope="module")
def base(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(comfyui, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def local(comfyui: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallFarm:
    """A farm of a good checkpoint and one that does not load, done by the local executor; ``nox -s farm``: twenty."""
    farm = SmallFarm(tmp_path_factory.mktemp("local"), comfyui, base, checkpoints=1)
    tensors = load_file(farm.folder / "models" / "model_00.safetensors")
    del tensors["model.diffusion_model.out.2.weight"]  # its header tells nothing of that
    save_file(tensors, farm.folder / "models" / "model_99.safetensors")
    done = farm.run("--json", str(farm.recipe), code=1)
    farm.outcomes = json.loads(done.stdout)  # type: ignore[attr-defined]
    return farm


def test_what_is_good_is_done_and_what_is_not_is_set_aside(local: SmallFarm) -> None:
    outcomes = local.outcomes["outcomes"]  # type: ignore[attr-defined]
    failed = {outcome["label"]: outcome for outcome in outcomes if outcome["error"]}
    assert all(label.startswith("model_99") for label in failed) and len(failed) == len(outcomes) // 2
    first = failed["model_99: calibrate, part 1 of 2"]
    assert "model_99.safetensors" in first["error"] and "\n" not in first["error"]
    assert failed["model_99: v2: write"]["skipped"] and not local.leftovers()
    finished = local.finished()
    assert len(finished) == len(set(finished)) == len(outcomes) // 2
    results = local.folder / "out" / "results" / "model_00"
    files = sorted(path.name for path in results.glob("*.safetensors"))
    assert files == [
        "model_00_hswq_r2_b60pct_int8.safetensors",
        "model_00_hswq_r2_r0.1_v2_measured_calibrated.safetensors",
    ]
    assert [inspect(results / name).format for name in files] == ["int8", "v2"]
    proof = results / "model_00_hswq_r2_b60pct_int8_proof" / "proof.html"
    card = results / "model_00_hswq_r2_b60pct_int8_publish" / "README.md"
    assert proof.is_file() and "somebody" in card.read_text("utf-8")


def test_what_is_done_is_not_done_again(local: SmallFarm) -> None:
    before, finished = local.digests(), local.finished()
    done = local.run("--json", str(local.recipe), code=1)
    assert all("model_99" in outcome["label"] for outcome in json.loads(done.stdout)["outcomes"])
    assert local.digests() == before and local.finished() == finished


def test_ray_makes_the_same_bytes_though_a_server_is_killed(
    local: SmallFarm, comfyui: Path, base: Path, tmp_path: Path
) -> None:
    farm = SmallFarm(tmp_path, comfyui, base, checkpoints=1, models=local.folder / "models")
    running = farm.start("--ray", "--workers", "2", str(farm.recipe))
    journal = farm.folder / "out" / "tasks" / "journal.jsonl"
    assert wait_for(lambda: journal.exists() and servers_of(tmp_path))
    kill(servers_of(tmp_path)[0])
    assert running.wait(600) == 0
    assert farm.digests() == local.digests()
    finished = farm.finished()
    assert len(finished) == len(set(finished)) and not farm.leftovers()


@pytest.mark.stress
def test_without_a_shared_folder_results_come_back_through_ray(
    local: SmallFarm, comfyui: Path, base: Path, tmp_path: Path
) -> None:
    farm = SmallFarm(tmp_path, comfyui, base, checkpoints=1, models=local.folder / "models", proof=False, shared=False)
    farm.run("--ray", "--workers", "1", str(farm.recipe))
    assert farm.digests().items() <= local.digests().items() and len(farm.digests()) == 6


def test_one_task_of_an_array(local: SmallFarm, comfyui: Path, base: Path, tmp_path: Path) -> None:
    farm = SmallFarm(tmp_path, comfyui, base, checkpoints=1, proof=False, shards=1)
    refused = farm.run("run", str(farm.recipe), "--task", "2", code=2)
    assert "it needs calibrate-" in refused.stderr
    farm.run("run", str(farm.recipe), "--task", "1")
    assert [name.partition("-")[0] for name in farm.finished()] == ["calibrate"]
    assert "there is no such task" in farm.run("run", str(farm.recipe), "--task", "99", code=2).stderr


def test_a_comfyui_without_this_pack_is_told(comfyui: Path, tmp_path: Path) -> None:
    base = tmp_path / "bare"
    (base / "custom_nodes").mkdir(parents=True)
    farm = SmallFarm(tmp_path / "farm", comfyui, base, checkpoints=1, proof=False, attempts=1)
    done = farm.run(str(farm.recipe), code=1)
    assert "this ComfyUI has not the nodes of HSWQ" in done.stdout and not farm.leftovers()


def test_a_sampler_that_this_comfyui_does_not_have_is_told_before_anything(
    comfyui: Path, base: Path, tmp_path: Path
) -> None:
    farm = SmallFarm(tmp_path, comfyui, base, checkpoints=1, proof=False)
    text = farm.recipe.read_text("utf-8").replace("cfg = 2.0", 'cfg = 2.0\nsampler = "eulr"\nscheduler = "simple"')
    farm.recipe.write_text(text, "utf-8")
    for words in ((), ("plan",)):
        done = farm.run(*words, str(farm.recipe), code=2)
        assert "'eulr' is no sampler of this ComfyUI; did you mean 'euler'?" in done.stderr
        assert "scheduler" not in done.stderr and not (farm.folder / "out").exists()
