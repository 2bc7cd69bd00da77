"""What other models than one SDXL need: experts that share a run, latents of their own, text encoders in FP8."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from hswq_core import convert, load_statistics, quantize
from hswq_core.calibration.coverage import coverage_warnings
from tests.support import workflows as w
from tests.support.server import TINY_CHECKPOINT, ComfyServer


def picture(server: ComfyServer, flow: w.Workflow, name: str) -> np.ndarray:
    return np.asarray(Image.open(server.images(server.run(flow), f"{name}_image")[0]).convert("RGB"))


def test_two_experts_in_one_workflow_are_each_asked_for_their_own_part(server: ComfyServer) -> None:
    """As Wan 2.2 is sampled: one model has the first steps, and hands its noisy latent on to the other."""
    first, second = (f"{name}-noise.safetensors" for name in ("high", "low"))
    for name in (first, second):
        tensors = load_file(TINY_CHECKPOINT)
        key = "model.diffusion_model.time_embed.0.weight"
        tensors[key] = tensors[key] * (1.0 if name == first else 1.01)
        save_file(tensors, server.checkpoints / name)
    flow: w.Workflow = {}
    for name in ("high", "low"):
        flow[f"{name}_loader"] = w.node("CheckpointLoaderSimple", ckpt_name=f"{name}-noise.safetensors")
        flow[f"{name}_calibrate"] = w.node(
            "HSWQCalibrate", model=[f"{name}_loader", 0], session="default", rows_per_layer=0, reset=False
        )
    flow |= w.sampling(["high_calibrate", 0], ["high_loader", 1], ["high_loader", 2], "end")
    settings = {
        key: value for key, value in flow["end_sampler"]["inputs"].items() if key not in ("seed", "denoise", "steps")
    }
    settings |= {"noise_seed": 1, "steps": 20}
    flow["high_sampler"] = w.node(
        "KSamplerAdvanced",
        **settings,
        add_noise="enable",
        start_at_step=0,
        end_at_step=10,
        return_with_leftover_noise="enable",
    )
    settings |= {"model": ["low_calibrate", 0], "latent_image": ["high_sampler", 0]}
    flow["end_sampler"] = w.node(
        "KSamplerAdvanced",
        **settings,
        add_noise="disable",
        start_at_step=10,
        end_at_step=10000,
        return_with_leftover_noise="disable",
    )
    server.run(flow)
    found = [load_statistics(server.output / "hswq" / f"{name}-noise.safetensors") for name in ("high", "low")]
    assert [statistics.partial_runs for statistics in found] == [1, 1]
    covered = [[n for n, count in enumerate(statistics.noise_levels) if count] for statistics in found]
    assert min(covered[0]) >= max(covered[1]) > 0
    assert not any("noise levels" in warning for each in found for warning in coverage_warnings(each))


@pytest.mark.parametrize("connected", [True, False])
def test_calibrate_run_begins_with_the_latent_that_is_connected(server: ComfyServer, connected: bool) -> None:
    session = f"latent-{connected}"
    flow: w.Workflow = {
        "loader": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
        "latent": w.node("EmptyLatentImage", width=128, height=64, batch_size=1),
        "run": w.node(
            "HSWQCalibrateRun", model=["loader", 0], clip=["loader", 1], prompts="apple", negative="", samples=1,
            steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", width=256, height=256, seed=1, session=session,
            rows_per_layer=0, **({"latent": ["latent", 0]} if connected else {}),
        ),
        "report": w.node("HSWQReport", stats=["run", 0], keep_ratio=0.25),
        "save": w.node("SaveImage", images=["report", 0], filename_prefix=session),
    }  # fmt: skip
    server.run(flow)
    found = load_statistics(server.output / "hswq" / f"{session}.safetensors")
    assert found.inputs[0]["0"].shape[2:] == ((8, 16) if connected else (32, 32))


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy"])
def test_text_encoders_in_fp8_give_the_picture_of_their_dequantized_weights(
    server: ComfyServer, tmp_path: Path, mode: str
) -> None:
    folder = server.checkpoints
    name, plain = f"texts-{mode}.safetensors", f"texts-{mode}-fp16.safetensors"
    quantize(TINY_CHECKPOINT, folder / name, mode=mode, part="text_encoders")
    convert(folder / name, folder / plain, "fp16")
    ours = picture(server, w.hswq_loaded(mode, name), mode)
    expected = picture(server, w.plain(f"{mode}_fp16", plain), f"{mode}_fp16")
    assert np.array_equal(ours, expected)
    original = picture(server, w.plain("original"), "original")
    assert not np.array_equal(ours, original), "the encoders were quantized"
    if mode == "v1":
        assert np.array_equal(picture(server, w.plain("stock", name), "stock"), expected)
