"""Bad input in the page: one clear error, nothing written, and the server goes on."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core.calibration import load_statistics
from hswq_core.fingerprint import Fingerprint
from tests.support import workflows as w
from tests.support.server import TINY_CHECKPOINT, ComfyServer, ExecutionError

UNET = "model.diffusion_model."


@pytest.fixture(scope="module", autouse=True)
def session(server: ComfyServer) -> str:
    server.run(w.calibrated("cal", session="errors", seed=1))
    return "errors"


def written(server: ComfyServer) -> set[Path]:
    return {p for p in server.output.rglob("*") if p.suffix == ".safetensors" or p.name.endswith(".tmp")}


def stored(server: ComfyServer, file: str = "errors.safetensors", **options: object) -> w.Workflow:
    return {"stats": w.node("HSWQLoadStatistics", file=file)} | w.quantize(["stats", 0], **options)


def assert_refused(server: ComfyServer, flow: w.Workflow, message: str) -> None:
    before = {p: p.stat().st_mtime_ns for p in written(server)}
    with pytest.raises(ExecutionError, match=message):
        server.run(flow)
    assert {p: p.stat().st_mtime_ns for p in written(server)} == before
    server.get("/system_stats")


def test_statistics_without_a_run(server: ComfyServer) -> None:
    flow = w.calibrated("cal", session="never-run")
    for key in [k for k in flow if k.startswith("cal_")]:
        del flow[key]
    assert_refused(server, flow | w.quantize(["calibrate", 1]), "hold no run")


def test_statistics_of_another_model(server: ComfyServer) -> None:
    tensors = load_file(TINY_CHECKPOINT)
    save_file(
        {k: v * 1.1 if v.is_floating_point() else v for k, v in tensors.items()},
        server.checkpoints / "other.safetensors",
    )
    assert_refused(server, stored(server, source="other.safetensors"), "of another model")
    flow = w.calibrated("cal", session="errors")
    flow["loader"]["inputs"]["ckpt_name"] = "other.safetensors"
    assert_refused(server, flow, "holds statistics of another model")


@pytest.mark.parametrize("ratio", [-0.5, 1.5])
def test_keep_ratio_outside_its_range(server: ComfyServer, ratio: float) -> None:
    assert_refused(server, stored(server, keep_ratio=ratio), "keep_ratio")


def test_an_existing_target(server: ComfyServer) -> None:
    server.run(stored(server, filename="twice"))
    # Other options, so that the node runs again instead of being cached.
    assert_refused(server, stored(server, filename="twice", keep_ratio=0.2), "exists already")
    server.run(stored(server, filename="twice", keep_ratio=0.2, overwrite=True))


@pytest.mark.parametrize("name", ["../outside", "a/b", "con", "back\\slash"])
def test_names_that_lead_elsewhere(server: ComfyServer, name: str) -> None:
    assert_refused(server, stored(server, filename=name), "cannot be used as a file name")
    assert_refused(server, w.calibrated("cal", session=name), "cannot be used as a session name")


@pytest.mark.parametrize("place", ["hswq", "checkpoints", "hswq_proof"])
def test_a_file_in_place_of_a_folder(server: ComfyServer, place: str) -> None:
    folder, aside = server.output / place, server.output / f"{place}.aside"
    moved = folder.exists()
    if moved:
        folder.rename(aside)
    folder.write_text("")
    flow = w.calibrated("cal", session="aside") | w.quantize(["calibrate", 1], ["cal_sampler", 0], filename="aside")
    if place == "hswq_proof":
        models = {"reference": ["loader", 0], "candidate": ["loader", 0], "clip": ["loader", 1], "vae": ["loader", 2]}
        drawing = {"sampler_name": "euler", "scheduler": "normal", "width": 256, "height": 256, "steps": 1, "cfg": 1.0}
        flow |= {"prove": w.node("HSWQProve", **models, **drawing, prompts="a", negative="", seeds=1, seed=0)}
        del flow["quantize"]
    try:
        with pytest.raises(ExecutionError, match=f"{place}: there is a file where this folder is to be"):
            server.run(flow, timeout=60)
    finally:
        folder.unlink()
        if moved:
            aside.rename(folder)


def test_a_pattern_that_matches_nothing(server: ComfyServer) -> None:
    assert_refused(server, stored(server, force_keep="*.to_q, nothing.like.this"), "no layer matches the pattern")


def test_patterns_decide_beforehand(server: ComfyServer) -> None:
    options = {"force_keep": "*.attn1.to_q\n*.attn1.to_k", "force_quantize": "out.2", "keep_ratio": 0.0}
    flow = stored(server, filename="patterns", **options)
    flow["show"] = w.node("PreviewAny", source=["quantize", 0])
    written = load_file(server.run(flow)["show"]["text"][0])
    kept = {k for k, t in written.items() if k.startswith(UNET) and k.endswith(".weight") and t.dtype == torch.float16}
    linear = {k for k in kept if written[k].dim() == 2}
    assert linear and all(k.endswith(("attn1.to_q.weight", "attn1.to_k.weight")) for k in linear)
    assert written[f"{UNET}out.2.weight"].dtype == torch.float8_e4m3fn


def test_a_cancelled_quantization_leaves_nothing(server: ComfyServer) -> None:
    tensors = load_file(TINY_CHECKPOINT)
    ballast = {f"first_stage_model.ballast.{i}": torch.ones(1 << 21) for i in range(96)}
    path = server.checkpoints / "large.safetensors"
    save_file(tensors | ballast, path)
    server.get("/object_info")
    before = written(server)
    with pytest.raises(ExecutionError, match="interrupted"):
        server.run(stored(server, source=path.name, filename="cancelled"), interrupt_at_step=1)
    path.unlink()
    assert written(server) == before


@pytest.mark.parametrize("kind", ["truncated", "text", "missing"])
def test_damaged_checkpoints(server: ComfyServer, kind: str) -> None:
    path = server.checkpoints / f"{kind}.safetensors"
    data = TINY_CHECKPOINT.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"not a checkpoint", "missing": data}[kind])
    message = {"truncated": "truncated", "text": "not a safetensors file", "missing": "no such|not in list"}[kind]
    server.get("/object_info")  # the page lists the models, and then one of them goes away
    if kind == "missing":
        path.unlink()
    assert_refused(server, stored(server, source=path.name), message)
    assert_refused(server, w.hswq_loaded("bad", path.name), message)


def test_damaged_statistics(server: ComfyServer) -> None:
    path = server.output / "hswq" / "broken.safetensors"
    data = (server.output / "hswq" / "errors.safetensors").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert_refused(server, stored(server, file=path.name), "damaged")
    assert_refused(server, w.calibrated("cal", session="broken"), "damaged")


def test_images_of_different_size(server: ComfyServer) -> None:
    flow = w.plain("small") | w.plain("large")
    flow["large_empty"]["inputs"]["width"] = 512
    flow["compare"] = w.node("HSWQCompare", reference=["small_decode", 0], candidate=["large_decode", 0])
    flow["show"] = w.node("PreviewImage", images=["compare", 0])
    with pytest.raises(ExecutionError, match="differ in shape"):
        server.run(flow)


@pytest.mark.parametrize("value", [0.0, float("nan"), -1.0])
def test_a_scale_that_is_no_positive_number(server: ComfyServer, value: float) -> None:
    tensors = load_file(TINY_CHECKPOINT)
    layer = "model.diffusion_model.input_blocks.1.0.in_layers.2"
    tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"].to(torch.float8_e4m3fn)
    tensors[f"{layer}.scale"] = torch.tensor([value])
    path = server.checkpoints / "bad_scale.safetensors"
    save_file(tensors, path)
    server.get("/object_info")
    assert_refused(
        server, w.hswq_loaded(f"bad{value}", path.name), r"input_blocks\.1\.0\.in_layers\.2\.scale is not a positive"
    )


def test_the_statistics_file_is_still_whole(server: ComfyServer) -> None:
    assert load_statistics(server.output / "hswq" / "errors.safetensors").runs >= 1


def test_the_calibrated_model_is_found_by_its_weights(server: ComfyServer) -> None:
    """Among other checkpoints, quantized copies and damaged files; and it is said when there is none."""
    calibrated = "(the calibrated model)"
    flow = stored(server, source=calibrated, filename="found", overwrite=True)
    flow["show"] = w.node("PreviewAny", source=["quantize", 1])
    assert '"quantized_layers"' in server.run(flow)["show"]["text"][0]
    tensors = load_file(TINY_CHECKPOINT)
    lost = load_file(server.output / "hswq" / "errors.safetensors")
    path = server.output / "hswq" / "lost.safetensors"
    with safe_open(server.output / "hswq" / "errors.safetensors", "pt") as file:
        metadata = file.metadata()
    # The fingerprint of a model that is nowhere: as many layers, other weights.
    layers = sorted(k[len(UNET) : -len(".weight")] for k, t in tensors.items() if k.startswith(UNET) and t.dim() > 1)
    metadata["hswq.model_fingerprint"] = Fingerprint.of(layers, lambda _name, at: [0.25] * len(at)).text
    save_file(lost, path, metadata)
    assert_refused(server, stored(server, file=path.name, source=calibrated), "no checkpoint holds the model")
