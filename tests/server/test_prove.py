"""The proof on a real server: what is the same passes with nothing but ones, what is broken fails."""

from __future__ import annotations

import hashlib
import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core import quantize
from hswq_core.errors import CheckpointError
from hswq_core.publishing import publish
from tests.support import workflows as w
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer, ExecutionError

LAYER = "model.diffusion_model.output_blocks.2.0.in_layers.2.weight"


def proving(candidate: str, loader: str = "HSWQLoader", seeds: int = 4) -> w.Workflow:
    return {
        "original": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
        "candidate": w.node(loader, ckpt_name=candidate),
        "prove": w.node(
            "HSWQProve", reference=["original", 0], candidate=["candidate", 0], clip=["original", 1],
            vae=["original", 2], prompts="apple\ncat\nrose", negative="", seeds=seeds, seed=50, steps=12, cfg=2.0,
            sampler_name="euler", scheduler="normal", width=256, height=256,
        ),
    }  # fmt: skip


def proof_of(server: ComfyServer, flow: w.Workflow) -> dict[str, Any]:
    page = Path(server.run(flow)["prove"]["text"][1])
    assert page.name == "proof.html" and page.is_relative_to(server.output / "hswq_proof")
    assert page.read_text("utf-8").count("data:image/jpeg") == 3 * flow["prove"]["inputs"]["seeds"]
    return json.loads((page.parent / "proof.json").read_text("utf-8"))


def test_a_good_file_passes_and_a_broken_one_fails(server: ComfyServer) -> None:
    quantize(TINY_CHECKPOINT, server.checkpoints / "good.safetensors", mode="int8", keep_ratio=0)
    tensors = load_file(server.checkpoints / "good.safetensors")
    assert tensors[LAYER].dtype == torch.int8
    tensors[LAYER] = -tensors[LAYER]
    save_file(tensors, server.checkpoints / "broken.safetensors")
    good = proof_of(server, proving("good.safetensors"))
    assert good["passed"] and not good["identical"], good["verdict"]
    assert good["tone"] in ("good", "fair") and "MB instead of" in good["verdict"]
    assert good["reference"] == w.TINY and good["candidate"] == "good.safetensors"
    assert [(pair["prompt"], pair["seed"]) for pair in good["pairs"]] == [
        ("apple", 50), ("cat", 51), ("rose", 52), ("apple", 53),
    ]  # fmt: skip
    assert all(len(pair["cosine"]) == 12 == len(pair["forced_error"]) for pair in good["pairs"])
    assert 0 < good["figures"]["model_error"]["median"] < 1e-3
    broken = proof_of(server, proving("broken.safetensors"))
    assert not broken["passed"], broken["verdict"]
    assert broken["figures"]["model_error"]["median"] > 100 * good["figures"]["model_error"]["median"]


def test_a_proof_names_the_file_that_was_just_written(server: ComfyServer, tmp_path: Path) -> None:
    """Though the loader shows another file: what comes through its path is followed no further."""
    flow = w.calibrated("cal", session="proved", steps=2)
    flow |= w.quantize(["calibrate", 1], ["cal_sampler", 0], mode="int8", keep_ratio=0.0, filename="just_written")
    flow |= proving(w.TINY, seeds=1)
    flow["candidate"]["inputs"]["path"] = ["quantize", 0]
    flow["publish"] = w.node(
        "HSWQPublish", path=["quantize", 0], proof=["prove", 2], title="", author="", licence="openrail++"
    )
    flow["folder"] = w.node("PreviewAny", source=["publish", 0])
    outputs = server.run(flow)
    page = Path(outputs["prove"]["text"][1])
    proof = json.loads(page.with_name("proof.json").read_text("utf-8"))
    file = server.output / "checkpoints/just_written.safetensors"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest().upper()
    expected = {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256, "format": "int8"}
    (said,) = outputs["prove"]["hswq_verdict"]
    assert said["text"] == outputs["prove"]["text"][0] == proof["verdict"]
    assert said["file"] == {"filename": page.name, "subfolder": "hswq_proof/just_written", "type": "output"}
    assert said["notes"] == [proof["gate"]["said"]]
    assert proof["reference"] == w.TINY == proof["files"]["reference"]["name"]
    assert proof["candidate"] == file.name and proof["files"]["candidate"] == expected | {"predicted_error": None}
    assert page.parent.name == "just_written"
    card = (Path(outputs["folder"]["text"][0]) / "README.md").read_text("utf-8")
    for text in (html.unescape(page.read_text("utf-8")), card):
        assert said["text"] in text and f"{file.name}, {file.stat().st_size:,} bytes, SHA256 {sha256}" in text
    other = tmp_path / "another.safetensors"
    quantize(TINY_CHECKPOINT, other, mode="int8", keep_ratio=0)
    with pytest.raises(CheckpointError, match=f"the proof is of another file than {other.name}"):
        publish(other, server.base / "published", proof=page)
    assert not (server.base / "published").exists()


def test_a_cancelled_proof_goes_on_where_it_was(server: ComfyServer) -> None:
    flow = proving("good.safetensors", seeds=3)
    flow["prove"]["inputs"]["seed"] = 77
    whole = proof_of(server, flow)
    flow["prove"]["inputs"]["negative"] = " "  # the same to the text encoder, but not the workflow that was run
    unfinished = server.output / "hswq_proof" / "unfinished"
    with pytest.raises(ExecutionError, match="interrupted"):
        server.run(flow, interrupt_at_step=12 * 4 + 1)
    names = {path.stem: path for path in unfinished.rglob("*.safetensors")}
    assert names.keys() >= {"reference_0", "reference_1", "reference_2", "candidate_0"}, "two thirds were done"
    with safe_open(names["candidate_0"], "pt") as file:
        metadata = file.metadata()
    tensors = load_file(names["candidate_0"])
    save_file(tensors | {"latents.0": -tensors["latents.0"]}, names["candidate_0"], metadata)
    again = proof_of(server, flow)
    assert not list(unfinished.rglob("*.safetensors"))
    assert (
        again["pairs"][1:] == whole["pairs"][1:] and again["pairs"][0]["cosine"][1:] == whole["pairs"][0]["cosine"][1:]
    )
    assert again["pairs"][0]["cosine"][0] == -whole["pairs"][0]["cosine"][0], "what was kept is what was used"


def test_pictures_and_clip_on_request(probing_once: ComfyServer) -> None:
    server = probing_once
    quantize(TINY_CHECKPOINT, server.checkpoints / "good.safetensors", mode="int8", keep_ratio=0)
    flow = proving("good.safetensors", seeds=2)
    flow["vision"] = w.node("ProbeClipVision", width=48)
    flow["prove"]["inputs"] |= {"clip_vision": ["vision", 0], "save_pictures": True}
    found = proof_of(server, flow)
    assert 0.5 < found["figures"]["clip_image"]["mean"] < 1
    assert "clip_score" not in found["figures"], "the tiny model's text encoder has no space of pictures"
    folder = max((server.output / "hswq_proof").glob("good*"), key=lambda path: path.stat().st_mtime)
    for side in ("reference", "candidate"):
        assert sorted(path.name for path in (folder / side).iterdir()) == ["0000_000.png", "0001_000.png"]


def test_the_same_model_is_told_from_a_perfect_one(server: ComfyServer) -> None:
    found = proof_of(server, proving(w.TINY, "CheckpointLoaderSimple", seeds=2))
    assert found["passed"] and found["identical"] and "wrong one is connected" in found["verdict"]
    assert found["figures"]["cosine"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "median": 1.0}
    assert found["figures"]["ssim"]["mean"] == pytest.approx(1.0)
    assert found["figures"]["model_error"]["mean"] == 0


def test_a_lora_that_was_forgotten_is_found(server: ComfyServer) -> None:
    """Reference and candidate are clones of one model; only one of them has the patches."""
    generator = torch.Generator().manual_seed(0)
    weight = load_file(TINY_CHECKPOINT)[LAYER]
    name = "lora_unet_" + LAYER.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
    folder = server.base / "models" / "loras"
    folder.mkdir(exist_ok=True)
    save_file(
        {
            f"{name}.lora_up.weight": torch.randn(weight.shape[0], 4, 1, 1, generator=generator) * 0.5,
            f"{name}.lora_down.weight": torch.randn(4, *weight.shape[1:], generator=generator) * 0.5,
        },
        folder / "strong.safetensors",
    )
    flow = proving(w.TINY, "CheckpointLoaderSimple", seeds=2)
    flow["lora"] = w.node(
        "LoraLoaderModelOnly", model=["original", 0], lora_name="strong.safetensors", strength_model=1
    )
    flow["prove"]["inputs"] |= {"reference": ["lora", 0], "candidate": ["original", 0]}
    found = proof_of(server, flow)
    assert found["reference"].endswith("with patches") and not found["passed"], found["verdict"]
    assert found["figures"]["model_error"]["median"] > 1e-3


def test_the_command_drives_a_running_server(server: ComfyServer, tmp_path: Path) -> None:
    quantize(TINY_CHECKPOINT, server.checkpoints / "command.safetensors", mode="int8", keep_ratio=0)
    (tmp_path / "prompts.txt").write_text("apple\n\nrose\n")
    options = [
        "--server",
        f"http://127.0.0.1:{server.port}",
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--seeds",
        "2",
    ]
    options += ["--steps", "4", "--cfg", "2", "--width", "256", "--height", "256"]
    command = [sys.executable, "-m", "hswq_core", "prove", w.TINY, "command.safetensors", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    verdict, page = done.stdout.splitlines()
    assert "image in 2 of 2" in verdict and Path(page).is_file()
    command[5] = "missing.safetensors"
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "missing.safetensors" in done.stderr


def test_the_original_is_sampled_once_for_all_candidates(server: ComfyServer) -> None:
    names = [f"{mode}.safetensors" for mode in ("int8", "v2", "v1")]
    for name in names:
        quantize(TINY_CHECKPOINT, server.checkpoints / name, mode=Path(name).stem, keep_ratio=0)
    before = server.log.count("sampling the original")
    command = [sys.executable, "-m", "hswq_core", "prove", w.TINY, *names]
    command += ["--server", f"http://127.0.0.1:{server.port}", "--seeds", "2", "--steps", "4", "--cfg", "2"]
    command += ["--width", "256", "--height", "256"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert server.log.count("sampling the original") - before == 2, "once for each pair"
    assert not list((server.output / "hswq_proof" / "unfinished").rglob("*.safetensors"))
    *verdicts, last = done.stdout.splitlines()
    page = Path(last)
    said = json.loads((page.parent / "comparison.json").read_text("utf-8"))
    assert sorted(row["candidate"] for row in said["candidates"]) == sorted(names)
    for row in said["candidates"]:
        proof = json.loads((page.parent / row["page"]).with_name("proof.json").read_text("utf-8"))
        assert proof["verdict"] == row["verdict"] and f"{row['candidate']}: {row['verdict']}" in verdicts
        assert row["format"] == Path(row["candidate"]).stem and row["opened_by"] and row["share"] < 0.8
