"""Calibrate in KSampler, quantize, load, look at the image: on a real server, through its own interfaces."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from hswq_core.calibration import load_statistics
from tests.support import workflows as w
from tests.support.server import TINY_CHECKPOINT, ComfyServer, ExecutionError

FP8 = torch.float8_e4m3fn
UNET = "model.diffusion_model."


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def statistics_file(server: ComfyServer, session: str) -> Path:
    return server.output / "hswq" / f"{session}.safetensors"


@pytest.fixture(scope="module")
def quantized(server: ComfyServer) -> dict[str, Path]:
    """V1, V2 and comfy files at keep ratio 0.10, from one calibrated run."""
    flow = w.calibrated("cal", session="shared", rows=64, prompt="apple", seed=5, steps=6, batch=2)
    for mode in ("v1", "v2", "comfy"):
        node = w.quantize(["calibrate", 1], ["cal_sampler", 0], mode=mode)["quantize"]
        flow[f"quantize_{mode}"] = node
    server.run(flow)
    folder = server.output / "checkpoints"
    return {mode: folder / f"hswq_tiny_hswq_r2_r0.1_{mode}.safetensors" for mode in ("v1", "v2", "comfy")}


def test_nodes_are_offered_as_the_contract_says(server: ComfyServer) -> None:
    info = server.get("/object_info")
    outputs = {
        "HSWQCalibrate": ["MODEL", "HSWQ_STATS"],
        "HSWQQuantize": ["STRING", "STRING"],
        "HSWQLoader": ["MODEL", "CLIP", "VAE"],
        "HSWQDiffusionModelLoader": ["MODEL"],
        "HSWQLoadStatistics": ["HSWQ_STATS"],
        "HSWQMergeStatistics": ["HSWQ_STATS"],
        "HSWQCompare": ["IMAGE", "FLOAT", "FLOAT", "STRING"],
    }
    for name, types in outputs.items():
        assert info[name]["output"] == types
        assert info[name]["category"] == "HSWQ"
        every = {**info[name]["input"].get("required", {}), **info[name]["input"].get("optional", {})}
        assert all(spec[1].get("tooltip") for spec in every.values()), name
    assert info["HSWQQuantize"]["output_node"] is True
    calibrate = info["HSWQCalibrate"]["input"]["required"]
    assert calibrate["session"][1]["default"] == "default" and calibrate["rows_per_layer"][1]["default"] == 1024
    quantize = info["HSWQQuantize"]["input"]
    assert quantize["required"]["keep_ratio"][1]["default"] == 0.25 and "after" in quantize["optional"]


def test_the_bundled_model_runs_on_stock_nodes(server: ComfyServer) -> None:
    outputs = server.run(w.plain("stock"))
    assert pixels(server.images(outputs, "stock_image")[0]).shape == (32, 32, 3)
    assert TINY_CHECKPOINT.stat().st_size <= 12e6


def test_calibration_does_not_change_the_image_and_leaves_no_hook(server: ComfyServer) -> None:
    """The calibrated model, the plain one after it, and the plain one before it give the same bytes."""
    before = pixels(server.images(server.run(w.plain("before", seed=9)), "before_image")[0])
    during = pixels(
        server.images(server.run(w.calibrated("during", session="same", rows=16, seed=9)), "during_image")[0]
    )
    assert np.array_equal(before, during)
    written = statistics_file(server, "same").read_bytes()
    # The same shared module, sampled through a clone without calibration: were a hook left, the file would grow.
    flow = {"loader": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)}
    flow |= w.sampling(["loader", 0], ["loader", 1], ["loader", 2], "after", seed=9)
    after = pixels(server.images(server.run(flow), "after_image")[0])
    assert np.array_equal(before, after)
    assert statistics_file(server, "same").read_bytes() == written


def test_runs_add_up_in_one_session(server: ComfyServer) -> None:
    for seed in (1, 2, 3):
        server.run(w.calibrated("cal", session="sum", seed=seed, batch=2, steps=3))
    total = load_statistics(statistics_file(server, "sum"))
    assert (total.runs, total.samples, total.steps) == (3, 6, 9)
    assert total.samplers == {"sample_euler"}
    with safe_open(TINY_CHECKPOINT, framework="pt") as file:
        shapes = {k: file.get_slice(k).get_shape() for k in file.keys()}  # noqa: SIM118
    expected = {
        k[len(UNET) : -7] for k, s in shapes.items() if k.startswith(UNET) and k.endswith(".weight") and len(s) > 1
    }
    assert set(total.layers) == expected
    # Three steps, three runs, two images, a positive and a negative prompt each: 36 images of 32 x 32 pixels.
    assert total.layers["input_blocks.0.0"].input_rows == 36 * 32 * 32


def test_reset_and_continue(server: ComfyServer) -> None:
    server.run(w.calibrated("cal", session="again", seed=1))
    server.run(w.calibrated("cal", session="again", seed=2, reset=True))
    assert load_statistics(statistics_file(server, "again")).runs == 1


def test_a_cancelled_run_adds_nothing_and_leaves_no_hook(server: ComfyServer) -> None:
    server.run(w.calibrated("cal", session="cancel", seed=1))
    before = statistics_file(server, "cancel").read_bytes()
    with pytest.raises(ExecutionError, match="interrupted"):
        server.run(w.calibrated("cal", session="cancel", seed=2, steps=400), interrupt_at_step=3)
    assert statistics_file(server, "cancel").read_bytes() == before
    server.run(w.calibrated("cal", session="cancel", seed=3))
    assert load_statistics(statistics_file(server, "cancel")).runs == 2


def test_written_files_hold_what_they_promise(server: ComfyServer, quantized: dict[str, Path]) -> None:
    source = load_file(TINY_CHECKPOINT)
    for mode, path in quantized.items():
        written = load_file(path)
        for key, tensor in source.items():
            if written[key].dtype != FP8:
                assert torch.equal(written[key], tensor), key
        layers = [k.removesuffix(".weight") for k, t in written.items() if t.dtype == FP8]
        assert all(key.startswith(UNET) for key in layers)
        with safe_open(path, framework="pt") as file:
            kept = json.loads(file.metadata()["hswq.kept_layers"])
        weights = [k for k, t in source.items() if k.startswith(UNET) and k.endswith(".weight") and t.dim() > 1]
        assert len(kept) + len(layers) == len(weights)
        if mode == "v2":
            assert all(written[f"{layer}.scale"].shape == (1,) for layer in layers)
            size = sum(t.nbytes for k, t in written.items() if k.startswith(UNET))
            assert size <= 0.70 * sum(t.nbytes for k, t in source.items() if k.startswith(UNET))


@pytest.mark.parametrize("selection", ["variance", "error"])
def test_a_byte_budget(server: ComfyServer, quantized: dict[str, Path], selection: str) -> None:
    """The file is as large as it may be, and no larger."""
    assert quantized
    flow = {"stats": w.node("HSWQLoadStatistics", file="shared.safetensors")}
    flow |= w.quantize(["stats", 0], budget="62%", selection=selection, mode="v1", filename=f"budget_{selection}")
    flow["report"] = w.node("PreviewAny", source=["quantize", 1])
    report = json.loads(server.run(flow)["report"]["text"][0])
    size = (server.output / f"checkpoints/budget_{selection}.safetensors").stat().st_size
    allowed = 0.62 * TINY_CHECKPOINT.stat().st_size
    assert 0.98 * allowed < size <= allowed and report["bytes"] == size


def test_a_scale_for_each_channel(server: ComfyServer, quantized: dict[str, Path]) -> None:
    assert quantized
    flow = {"stats": w.node("HSWQLoadStatistics", file="shared.safetensors")}
    flow |= w.quantize(["stats", 0], scales="channel", keep_ratio=0.25, filename="channel")
    server.run(flow)
    written = load_file(server.output / "checkpoints/channel.safetensors")
    layers = [key.removesuffix(".weight") for key, tensor in written.items() if tensor.dtype == FP8]
    assert layers and all(written[f"{e}.scale"].shape == written[f"{e}.weight"].shape[:1] for e in layers)
    flow = w.plain("reference", prompt="heart", seed=3, steps=8)
    flow |= w.hswq_loaded("channel", "channel.safetensors", prompt="heart", seed=3, steps=8)
    flow["compare"] = w.node("HSWQCompare", reference=["reference_decode", 0], candidate=["channel_decode", 0])
    flow["figures"] = w.node("PreviewAny", source=["compare", 3])
    assert 0.9 < json.loads(server.run(flow)["figures"]["text"][0])["ssim"] < 1


def test_quantized_images_stay_close(server: ComfyServer, quantized: dict[str, Path]) -> None:
    flow = w.plain("reference", prompt="heart", seed=3, steps=8)
    for mode, path in quantized.items():
        flow |= w.hswq_loaded(mode, path.name, prompt="heart", seed=3, steps=8)
        flow[f"{mode}_compare"] = w.node(
            "HSWQCompare", reference=["reference_decode", 0], candidate=[f"{mode}_decode", 0]
        )
        flow[f"{mode}_figures"] = w.node("PreviewAny", source=[f"{mode}_compare", 3])
        flow[f"{mode}_view"] = w.node("PreviewImage", images=[f"{mode}_compare", 0])
    outputs = server.run(flow)
    for mode in quantized:
        figures = json.loads(outputs[f"{mode}_figures"]["text"][0])
        assert 0.8 < figures["ssim"] < 1 and not figures["identical"]
        assert pixels(server.images(outputs, f"{mode}_view")[0]).shape == (32, 100, 3)


def test_the_whole_chain_in_one_workflow(server: ComfyServer) -> None:
    """Calibrate, quantize, load the new file by its path, render, without touching anything in between."""
    flow = w.calibrated("cal", session="chain", seed=4)
    flow |= w.quantize(["calibrate", 1], ["cal_sampler", 0], filename="chain", keep_ratio=0.25)
    flow["loader2"] = w.node("HSWQLoader", ckpt_name=w.TINY, path=["quantize", 0])
    flow |= w.sampling(["loader2", 0], ["loader2", 1], ["loader2", 2], "final", seed=4)
    flow["report"] = w.node("PreviewAny", source=["quantize", 1])
    outputs = server.run(flow)
    report = json.loads(outputs["report"]["text"][0])
    assert Path(report["file"]).name == "chain.safetensors" and report["bytes"] == Path(report["file"]).stat().st_size
    assert server.images(outputs, "final_image")
