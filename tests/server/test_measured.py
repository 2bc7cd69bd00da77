"""The one-node recipe, measured sensitivity, calibrated rounding and the report, on a real server."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hswq_core.calibration import load_statistics
from tests.support import workflows as w
from tests.support.odd_folder import metadata
from tests.support.server import ComfyServer, ExecutionError

FP8 = torch.float8_e4m3fn
UNET = "model.diffusion_model."


def recipe(session: str, samples: int, **options: object) -> w.Workflow:
    inputs = {
        "prompts": "apple\ngreen heart", "negative": "", "samples": samples, "steps": 6, "cfg": 2.0,
        "sampler_name": "euler", "scheduler": "normal", "width": 256, "height": 256, "seed": 3,
        "session": session, "rows_per_layer": 256,
    }  # fmt: skip
    run = w.node("HSWQCalibrateRun", model=["loader", 0], clip=["loader", 1], **(inputs | options))
    report = w.node("HSWQReport", stats=["run", 0], keep_ratio=0.25)
    return {
        "loader": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
        "run": run,
        "report": report,
        "chart": w.node("PreviewImage", images=["report", 0]),
        "text": w.node("PreviewAny", source=["report", 1]),
    }


def session_file(server: ComfyServer, name: str) -> Path:
    return server.output / "hswq" / f"{name}.safetensors"


@pytest.fixture(scope="module")
def measured(server: ComfyServer) -> Path:
    """A session of four images in which every layer's effect was measured."""
    flow = recipe("measured", 4)
    flow["measure"] = w.node(
        "HSWQMeasureSensitivity", model=["loader", 0], stats=["run", 0], mode="v2", probes=4, rounding="calibrated"
    )
    flow["report"]["inputs"]["stats"] = ["measure", 0]
    outputs = server.run(flow)
    text = outputs["text"]["text"][0]
    assert "by measured" in text and "note: the calibration has only 4 images" in text and "input_blocks.0.0" in text
    image = Image.open(server.images(outputs, "chart")[0])
    assert image.size == (1200, 1180) and len(image.convert("RGB").getcolors(1 << 20) or []) > 3
    return session_file(server, "measured")


def test_the_recipe_draws_measures_and_continues(server: ComfyServer) -> None:
    server.run(recipe("recipe", 2))
    first = load_statistics(session_file(server, "recipe"))
    assert (first.runs, first.samples, first.steps) == (2, 2, 12)
    assert sum(first.noise_levels) == 12 and first.noise_levels[-1] > 0 and first.inputs
    server.run(recipe("recipe", 3))
    assert load_statistics(session_file(server, "recipe")).samples == 3
    # What the recipe measures is what the calibrate node measures around a KSampler of the same settings.
    server.run(w.calibrated("ksampler", session="ksampler", rows=256, prompt="apple", seed=3, steps=6, cfg=2.0))
    server.run(recipe("one", 1, prompts="apple"))
    recipe_one, ksampler = (load_statistics(session_file(server, name)) for name in ("one", "ksampler"))
    for name, layer in ksampler.layers.items():
        assert torch.allclose(recipe_one.layers[name].importance, layer.importance, rtol=1e-4, atol=1e-7), name


def test_a_recipe_that_is_reset_begins_anew_each_time(server: ComfyServer) -> None:
    server.run(recipe("anew", 2, steps=2))
    for _ in range(2):
        before = session_file(server, "anew").stat().st_mtime_ns
        server.run(recipe("anew", 1, steps=2, seed=9, reset=True))
        found = load_statistics(session_file(server, "anew"))
        assert (found.runs, found.samples) == (1, 1) and session_file(server, "anew").stat().st_mtime_ns > before
    server.run(recipe("anew", 2, steps=2, seed=9, reset=False))
    assert load_statistics(session_file(server, "anew")).samples == 2


def test_a_cancelled_recipe_keeps_its_finished_images(server: ComfyServer) -> None:
    with pytest.raises(ExecutionError, match="interrupted"):
        server.run(recipe("cancelled", 40), interrupt_at_step=15)
    kept = load_statistics(session_file(server, "cancelled"))
    assert 2 <= kept.samples < 40 and kept.runs == kept.samples
    server.run(recipe("cancelled", kept.samples + 1))
    assert load_statistics(session_file(server, "cancelled")).samples == kept.samples + 1


def test_prompts_from_a_file(server: ComfyServer) -> None:
    (server.base / "input/list.txt").write_text("apple\n\n  pizza \n", encoding="utf-8")
    server.run(recipe("from-file", 2, prompts="list.txt"))
    assert load_statistics(session_file(server, "from-file")).samples == 2
    for name in ("nowhere.txt", "../outside.txt"):
        with pytest.raises(ExecutionError, match="no such file of prompts"):
            server.run(recipe("no-file", 1, prompts=name))


def test_sampling_patterns_are_recorded(server: ComfyServer) -> None:
    server.run(w.calibrated("partial", session="partial", steps=8, sampler="dpmpp_2m", denoise=0.5))
    found = load_statistics(session_file(server, "partial"))
    assert found.samplers == {"sample_dpmpp_2m"} and found.noise_levels[-1] == 0 and sum(found.noise_levels) == 8


def test_measured_selection_and_calibrated_rounding_make_a_model(server: ComfyServer, measured: Path) -> None:
    statistics = load_statistics(measured)
    impacts = statistics.impacts("v2 calibrated")
    assert impacts.keys() == statistics.layers.keys() and all(i >= 0 for i in impacts.values())
    flow = {"stats": w.node("HSWQLoadStatistics", file=measured.name)}
    flow |= w.quantize(["stats", 0], selection="measured", rounding="calibrated", keep_ratio=0.05, filename="best")
    flow["report"] = w.node("PreviewAny", source=["quantize", 1])
    report = json.loads(server.run(flow)["report"]["text"][0])
    assert report["calibrated_layers"] == report["quantized_layers"] and report["calibrated_gain"] < 0.8
    worst = sorted(impacts, key=lambda name: -(impacts[name] or 0))[: report["kept_layers"]]
    assert set(report["kept"]) == set(worst)
    file = load_file(server.output / "checkpoints/best.safetensors")
    assert all(file[f"{UNET}{name}.weight"].dtype == torch.float16 for name in worst)
    server.get("/object_info")
    flow = w.plain("original", prompt="pizza", steps=12, cfg=2.0)
    flow |= w.hswq_loaded("quantized", "best.safetensors", prompt="pizza", steps=12, cfg=2.0)
    flow["compare"] = w.node("HSWQCompare", reference=["original_decode", 0], candidate=["quantized_decode", 0])
    flow["ssim"] = w.node("PreviewAny", source=["compare", 1])
    assert float(server.run(flow)["ssim"]["text"][0]) > 0.97


def test_a_cancelled_measurement_continues_where_it_stopped(server: ComfyServer, measured: Path) -> None:
    def measuring(file: str) -> w.Workflow:
        return {
            "loader": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
            "stats": w.node("HSWQLoadStatistics", file=file),
            "measure": w.node(
                "HSWQMeasureSensitivity",
                model=["loader", 0],
                stats=["stats", 0],
                mode="v1",
                probes=2,
                rounding="nearest",
                method="exact",
            ),
            "report": w.node("HSWQReport", stats=["measure", 0], keep_ratio=0.1),
            "chart": w.node("PreviewImage", images=["report", 0]),
        }

    copy = session_file(server, "resumed")
    copy.write_bytes(measured.read_bytes())
    with pytest.raises(ExecutionError, match="interrupted"):
        server.run(measuring(copy.name), interrupt_at_step=20)
    partly = load_statistics(copy)
    done = partly.impacts("v1 nearest")
    assert 15 <= len(done) < len(partly.layers)
    server.run(measuring(copy.name))
    finished = load_statistics(copy)
    assert finished.impacts("v1 nearest").keys() == finished.layers.keys()
    assert finished.impacts("v2 calibrated") == partly.impacts("v2 calibrated")  # other measurements stay
    assert all(finished.impacts("v1 nearest")[name] == impact for name, impact in done.items())


def ranks(impacts: dict[str, float]) -> torch.Tensor:
    return torch.tensor([impacts[name] for name in sorted(impacts)]).argsort().argsort().double()


@pytest.mark.parametrize("mode", ["v2", pytest.param("int8", marks=pytest.mark.stress)])
def test_gradients_rank_layers_as_measuring_one_at_a_time_does(server: ComfyServer, measured: Path, mode: str) -> None:
    found = {}
    for method in ("gradient", "exact"):
        copy = session_file(server, f"by_{method}_{mode}")
        copy.write_bytes(measured.read_bytes())
        server.get("/object_info")
        flow = {
            "loader": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
            "stats": w.node("HSWQLoadStatistics", file=copy.name),
            "measure": w.node(
                "HSWQMeasureSensitivity", model=["loader", 0], stats=["stats", 0], mode=mode, probes=2,
                rounding="nearest", method=method,
            ),
            "report": w.node("HSWQReport", stats=["measure", 0], keep_ratio=0.1),
            "chart": w.node("PreviewImage", images=["report", 0]),
        }  # fmt: skip
        server.run(flow)
        found[method] = load_statistics(copy).impacts(f"{mode} nearest")
    assert "one layer after another" not in server.log
    assert torch.corrcoef(torch.stack([ranks(found["gradient"]), ranks(found["exact"])]))[0, 1] > 0.95
    assert sum(found["gradient"].values()) == pytest.approx(sum(found["exact"].values()), rel=0.5)


def test_quantize_measures_by_itself_where_the_model_is_connected(server: ComfyServer) -> None:
    flow = w.calibrated("own", session="own", steps=4)
    flow |= w.quantize(["calibrate", 1], ["own_sampler", 0], selection="measured", filename="own", mode="int8")
    with pytest.raises(ExecutionError, match="was not measured") as caught:
        server.run(flow)
    assert "Connect the MODEL" in str(caught.value)
    flow["quantize"]["inputs"]["model"] = ["calibrate", 0]
    server.run(flow)
    impacts = load_statistics(session_file(server, "own")).impacts("int8 nearest")
    assert len(impacts) == 175
    kept = json.loads(metadata(server.output / "checkpoints/own.safetensors")["hswq.kept_layers"])
    assert set(kept) == set(sorted(impacts, key=lambda name: -impacts[name])[: len(kept)])


def test_measuring_another_model_is_refused(server: ComfyServer, measured: Path) -> None:
    tensors = load_file(server.checkpoints / w.TINY)
    from safetensors.torch import save_file

    scaled = {k: v * 1.1 if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(scaled, server.checkpoints / "scaled.safetensors")
    server.get("/object_info")
    flow = {
        "loader": w.node("CheckpointLoaderSimple", ckpt_name="scaled.safetensors"),
        "stats": w.node("HSWQLoadStatistics", file=measured.name),
        "measure": w.node("HSWQMeasureSensitivity", model=["loader", 0], stats=["stats", 0], mode="v2", probes=2),
        "report": w.node("HSWQReport", stats=["measure", 0], keep_ratio=0.1),
        "chart": w.node("PreviewImage", images=["report", 0]),
    }
    with pytest.raises(ExecutionError, match="different models"):
        server.run(flow)
