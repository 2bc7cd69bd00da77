"""``hswq doctor``: what it prints, JSON, cards, and one line for bad input."""

import json
from pathlib import Path

import pytest
import torch

from hswq_core.calibration import save_statistics
from hswq_core.doctor import named_card, this_machine
from hswq_core.errors import PlanError
from tests.core import doctor_files as files
from tests.core.conftest import Example
from tests.core.test_cli import hswq


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    return files.save(tmp_path, files.each(files.plain))


def test_it_says_first_what_it_is_then_what_is_done(v1: Path) -> None:
    done = hswq("doctor", v1, "--card", "RTX 4070")
    assert done.returncode == 0 and not done.stderr
    first, verdict = done.stdout.splitlines()[:2]
    assert first == str(v1)
    opened = "opened by ComfyUI 0.3.75, ComfyUI 0.33 and HSWQ Loader"
    assert verdict.strip() == f"stable-diffusion, FP8 E4M3 without scales; {opened}"
    assert "ComfyUI 0.3.75 and ComfyUI 0.33: casts kept layers to FP8" in done.stdout
    assert "HSWQ Loader, fast: computes in 8 bits" in done.stdout and "the card has 12 GB" in done.stdout


def test_json_has_all_of_it(v1: Path, tmp_path: Path) -> None:
    original = files.save(tmp_path, files.original(), name="original")
    found = json.loads(hswq("doctor", v1, "--json", "--card", "rtx 3060", "--original", original).stdout)
    assert found["architecture"] == "stable-diffusion" and found["bytes"] == v1.stat().st_size
    (group,) = found["groups"]
    assert (group["format"], group["layers"], group["bits_a_weight"]) == ("fp8", 7, 8.0)
    assert found["parts"]["diffusion model"]["formats"] == ["fp8"] and found["findings"] == []
    assert found["machine"] == {
        "name": "rtx 3060", "kind": "cuda", "computes": ["int4", "int8"], "memory": 12 * 2**30,
    }  # fmt: skip
    actions = {action["loader"]: action["does"] for action in group["actions"]}
    assert actions["ComfyUI 0.33"] == "expands when loaded"
    held = {each["loader"]: each["weights"] for each in found["memory"]}
    assert held["ComfyUI 0.33"] - held["HSWQ Loader"] == group["bytes"]  # in 16 bits
    compared = found["comparison"]
    assert len(compared["layers"]) == 7 and compared["unchanged"] == 2 and compared["predicted_error"] is None


@pytest.mark.parametrize(
    ("name", "computes"),
    [
        ("RTX 2060", {"int8", "int4"}),
        ("NVIDIA GeForce RTX 3090 Ti", {"int8", "int4"}),
        ("RTX4090", {"int8", "int4", "fp8"}),
        ("H100", {"int8", "fp8"}),
        ("RTX 5070 Ti Laptop GPU", {"int8", "fp8", "mxfp8", "nvfp4"}),
        ("GTX 1080", set()),
        ("A100-SXM4-80GB", {"int8", "int4"}),
        ("NVIDIA A100 80GB PCIe", {"int8", "int4"}),
        ("H100 80GB HBM3", {"int8", "fp8"}),
        ("NVIDIA H100 NVL", {"int8", "fp8"}),
        ("Tesla T4", {"int8", "int4"}),
        ("Tesla V100-SXM2-16GB", set()),
        ("NVIDIA RTX 6000 Ada Generation", {"int8", "int4", "fp8"}),
        ("RTX 4000 SFF Ada Generation", {"int8", "int4", "fp8"}),
        ("Quadro RTX 8000", {"int8", "int4"}),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", {"int8", "fp8", "mxfp8", "nvfp4"}),
        ("NVIDIA GeForce GTX 1060 with Max-Q Design", set()),
    ],
)
def test_cards_by_their_names(name: str, computes: set[str]) -> None:
    assert named_card(name).products == computes


@pytest.mark.parametrize("name", ["RTX 508O", "RTX 6080", "Radeon", "A\0B"])
def test_a_card_that_is_not_known(name: str) -> None:
    with pytest.raises(PlanError, match="no card") as error:
        named_card(name)
    assert "?" not in str(error.value) and ".." not in str(error.value)


def test_this_machine_is_tried() -> None:
    machine = this_machine("cpu")
    assert machine.tried and machine.kind == "cpu" and not machine.multiplies("nvfp4")


def test_one_line_for_what_cannot_be_read(v1: Path, tmp_path: Path, example: Example) -> None:
    whole = v1.read_bytes()
    cut, page, empty = (tmp_path / name for name in ("cut.safetensors", "page.safetensors", "empty.safetensors"))
    cut.write_bytes(whole[: len(whole) // 2])
    page.write_bytes(b"<!DOCTYPE html><html>" * 100)
    files.save(tmp_path, {"alphas": torch.ones(4)}, name="empty")
    lora = files.save(tmp_path, {f"a.lora_{way}.weight": torch.ones(4, 4) for way in ("up", "down")}, name="lora")
    pickled = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}}, pickled)
    gguf = tmp_path / "cut.gguf"
    gguf.write_bytes(b"GGUF\x03")
    quantized = files.save(tmp_path, files.each(files.scaled(".scale")), name="quantized")
    save_statistics(example.statistics, tmp_path / "other.safetensors")
    other = tmp_path / "other.safetensors"
    for words, said in (
        ((cut,), "truncated"),
        ((page,), "not a safetensors file"),
        ((empty,), "no layer of a model"),
        ((lora,), "this is a LoRA"),
        ((pickled,), "not a safetensors file"),
        ((gguf,), "GGUF"),
        ((tmp_path / "missing.safetensors",), "no such file"),
        ((v1, "--card", "RTX 9999"), "no card"),
        ((v1, "--stats", example.statistics_path), "without the original"),
        ((v1, "--original", quantized), "quantized itself"),
        ((v1, "--original", example.path), "no layer of"),
        ((v1, "--original", files.save(tmp_path, files.original(), name="o"), "--stats", other), "model"),
    ):
        done = hswq("doctor", *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, words
        assert said in done.stderr, done.stderr
