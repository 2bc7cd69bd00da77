"""What was calibrated is what is written, in odd graphs and odd folders; or one clear error."""

import contextlib
import json
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from farm.comfyui import ServerError
from hswq_core import load_statistics
from tests.support import workflows as w
from tests.support.odd_folder import CALIBRATED, OTHER, calibrating, metadata, quantized, written
from tests.support.probing import UNET
from tests.support.server import ComfyServer, ExecutionError


@pytest.mark.parametrize("checkpoint", ["a_copy.safetensors", "b_copy.safetensors", w.TINY])
def test_of_files_with_one_diffusion_model_the_calibrated_one_is_written(place: ComfyServer, checkpoint: str) -> None:
    path = written(place.run(quantized("same", f"same-{checkpoint}", "same", checkpoint=checkpoint)))
    expected, found = load_file(place.checkpoints / checkpoint), load_file(path)
    assert all(torch.equal(found[key], expected[key]) for key in expected if not key.startswith(UNET))


def test_where_it_cannot_be_told_which_file_is_meant_all_are_listed(place: ComfyServer) -> None:
    place.run(calibrating("unknown", "unknown"))
    session = place.output / "hswq/unknown.safetensors"
    save_file(load_file(session), session, metadata(session) | {"hswq.source": "checkpoints/gone.safetensors"})
    flow = {"stats": w.node("HSWQLoadStatistics", file=session.name)}
    flow |= w.quantize(["stats", 0], source=CALIBRATED, filename="unknown")
    place.get("/object_info")
    with pytest.raises(ExecutionError, match=r"a_copy\.safetensors, .*b_copy\.safetensors") as caught:
        place.run(flow)
    assert "Choose the source by its name" in str(caught.value)


@pytest.mark.parametrize("kind", ["merge 0", "merge 0.3", "lora"])
def test_what_no_file_holds_is_refused(place: ComfyServer, kind: str) -> None:
    flow = quantized("patched", f"patched {kind}".replace(".", "_"), "patched")
    if kind == "lora":
        flow["on_top"] = w.node(
            "LoraLoaderModelOnly", model=["loader", 0], lora_name="fine.safetensors", strength_model=1
        )
    else:
        flow["second"] = w.node("CheckpointLoaderSimple", ckpt_name=OTHER)
        ratio = float(kind.split()[1])
        flow["on_top"] = w.node("ModelMergeSimple", model1=["loader", 0], model2=["second", 0], ratio=ratio)
    flow["calibrate"]["inputs"]["model"] = ["on_top", 0]
    with pytest.raises(ExecutionError, match="no file on disk holds that") as caught:
        place.run(flow)
    assert "Save Checkpoint" in str(caught.value)
    assert not (place.output / "checkpoints/patched.safetensors").exists()


def test_two_models_under_one_session_name_are_told_apart(place: ComfyServer) -> None:
    flow = calibrating("first", "shared")
    flow |= {"second": w.node("CheckpointLoaderSimple", ckpt_name=OTHER)}
    flow["calibrate2"] = flow["calibrate"] | {"inputs": flow["calibrate"]["inputs"] | {"model": ["second", 0]}}
    flow |= w.sampling(["calibrate2", 0], ["loader", 1], ["loader", 2], "other", steps=3)
    with pytest.raises(ExecutionError, match="holds statistics of another model"):
        place.run(flow)
    assert load_statistics(place.output / "hswq/shared.safetensors").runs == 1


def test_a_run_with_nan_is_left_out_with_a_warning(place: ComfyServer) -> None:
    place.run(calibrating("good", "poisoned"))
    flow = calibrating("bad", "poisoned", seed=2)
    flow["lora"] = w.node("LoraLoaderModelOnly", model=["loader", 0], lora_name="broken.safetensors", strength_model=1)
    flow["calibrate"]["inputs"]["model"] = ["lora", 0]
    with pytest.raises(ExecutionError, match="other patches"):
        place.run(flow)
    flow["calibrate"]["inputs"]["session"] = "poison"
    place.run(flow)
    assert "a run was left out: NaN or infinity in the layer" in place.log
    assert "NaN or infinity in the layer" in place.events[-1][1]["left_out"]
    assert not (place.output / "hswq/poison.safetensors").exists()
    flow = calibrating("more", "poisoned", seed=3)
    flow["report"] = w.node("HSWQReport", stats=["calibrate", 1], keep_ratio=0.25, after=["more_sampler", 0])
    flow["text"] = w.node("PreviewAny", source=["report", 1])
    assert "2 runs" in place.run(flow)["text"]["text"][0]


def test_modules_that_others_inject_for_a_run_change_nothing(place: ComfyServer) -> None:
    for seed in range(2):
        flow = calibrating("injected", "injected", seed=seed)
        flow["inject"] = w.node("ProbeInjected", model=["loader", 0])
        flow["calibrate"]["inputs"]["model"] = ["inject", 0]
        place.run(flow)
    path = written(place.run(quantized("plain", "injected", "injected", seed=9)))
    found = load_statistics(place.output / "hswq/injected.safetensors")
    assert found.runs == 3 and not any("injected" in name for name in found.layers)
    assert metadata(path)["hswq.mode"] == "v2"


def test_a_compiled_model_is_measured_or_said_to_be_left_out(place: ComfyServer) -> None:
    before = place.log.count("no layer of the model ran where it could be measured")
    for name in ("compiled", "compiled again"):
        flow = calibrating(name.replace(" ", "_"), name, seed=len(name))
        flow["compile"] = w.node("ProbeCompiled", model=["loader", 0])
        flow["calibrate"]["inputs"]["model"] = ["compile", 0]
        place.run(flow)
        session = place.output / f"hswq/{name}.safetensors"
        told = place.log.count("no layer of the model ran where it could be measured")
        if session.exists():
            assert len(load_statistics(session).layers) == 175
        else:
            assert told > before
        before = told
    # The module is the same one; a plain clone of it is measured as ever.
    place.run(calibrating("uncompiled", "uncompiled", seed=4))
    assert len(load_statistics(place.output / "hswq/uncompiled.safetensors").layers) == 175


def test_the_default_session_is_one_for_each_model(place: ComfyServer) -> None:
    for checkpoint in (w.TINY, OTHER):
        path = written(place.run(quantized("default", "default", f"default_{checkpoint}", checkpoint=checkpoint)))
        session = load_statistics(place.output / "hswq" / checkpoint)
        assert session.runs == 1 and session.source == f"checkpoints/{checkpoint}"
        assert len(json.loads(metadata(path)["hswq.kept_layers"])) == 18
    assert not (place.output / "hswq/default.safetensors").exists()


def test_a_diffusion_model_alone_goes_to_where_its_loader_looks(place: ComfyServer) -> None:
    place.run(calibrating("for_alone", "for alone"))
    flow = {"stats": w.node("HSWQLoadStatistics", file="for alone.safetensors")}
    flow |= w.quantize(["stats", 0], source="alone.safetensors", filename="alone_v2")
    flow["path"] = w.node("PreviewAny", source=["quantize", 0])
    place.get("/object_info")
    path = written(place.run(flow))
    assert path == place.output / "diffusion_models/alone_v2.safetensors" and path.is_file()


def test_steps_that_a_cache_skips_are_not_counted(place: ComfyServer) -> None:
    flow = calibrating("cached", "cached")
    flow["cached_sampler"]["inputs"]["steps"] = 20
    flow["cache"] = w.node(
        "EasyCache", model=["loader", 0], reuse_threshold=2.0, start_percent=0.1, end_percent=1.0, verbose=False
    )
    flow["calibrate"]["inputs"]["model"] = ["cache", 0]
    place.run(flow)
    found = load_statistics(place.output / "hswq/cached.safetensors")
    assert 0 < found.steps < 20 and sum(found.noise_levels) == found.steps


def test_looking_at_a_session_never_undoes_a_reset(place: ComfyServer) -> None:
    """Pages that poll for the chart while the session is reset and calibrated again, and again."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            with contextlib.suppress(ServerError):
                place.get("/hswq/curve?session=polled&source=(the%20calibrated%20model)&mode=v2&selection=variance")

    pages = [threading.Thread(target=poll) for _ in range(4)]
    for page in pages:
        page.start()
    try:
        for seed in range(8):
            place.run(calibrating("polled", "polled", seed=seed, reset=True))
            assert load_statistics(place.output / "hswq/polled.safetensors").runs == 1
    finally:
        stop.set()
        for page in pages:
            page.join()
