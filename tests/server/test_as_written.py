"""What is measured is the model as it is written: compiled ones, and layers with something beside their weights."""

from pathlib import Path

import pytest

from hswq_core import load_statistics
from tests.support import workflows as w
from tests.support.odd_folder import calibrating, quantized
from tests.support.server import ComfyServer, ExecutionError
from tests.support.telling import told_by


def test_modules_run_as_they_are_written_and_afterwards_as_before(comfyui: Path) -> None:
    found = told_by("tests.server.modules_as_written", comfyui)
    assert found["before"] == found["after"] and not any(found["before"])
    assert all(found["inside"]) and found["compiled"] == [1, 2]
    newer = (comfyui / "comfy" / "model_prefetch.py").exists()
    assert (found["fused"], found["prefetched"]) == ((1, 0) if newer else (None, None))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "a block"])
def test_what_is_measured_of_a_compiled_model_is_that_of_the_model(place: ComfyServer, whole: bool) -> None:
    impacts = {}
    for model in ("plain", "compiled"):
        session = f"{model}_{whole}"
        flow = calibrating("run", session, seed=5)
        flow["compiled"] = w.node("ProbeCompiled", model=["loader", 0], whole=whole)
        used = ["loader" if model == "plain" else model, 0]
        flow["calibrate"]["inputs"]["model"] = used
        flow["measure"] = w.node(
            "HSWQMeasureSensitivity", model=used, stats=["calibrate", 1], after=["run_sampler", 0], mode="v2", probes=1,
            method="gradient",
        )  # fmt: skip
        flow |= w.quantize(["measure", 0], source="(the calibrated model)", filename=session, overwrite=True)
        place.run(flow)
        layers = load_statistics(place.output / f"hswq/{session}.safetensors").layers
        impacts[model] = {layer: each.impacts for layer, each in layers.items()}
    assert len(impacts["plain"]) == 175 and all(impacts["plain"].values())
    assert impacts["compiled"] == impacts["plain"]


def test_a_lora_beside_the_weights_is_no_part_of_any_file(place: ComfyServer) -> None:
    kinds = {"ProbeReplaced": {}}
    if "LoraLoaderBypassModelOnly" in place.get("/object_info"):
        kinds["LoraLoaderBypassModelOnly"] = {"lora_name": "fine.safetensors", "strength_model": 1.0}
    for kind, options in kinds.items():
        flow = quantized(kind, kind, kind)
        flow["on_top"] = w.node(kind, model=["loader", 0], **options)
        flow["calibrate"]["inputs"]["model"] = ["on_top", 0]
        with pytest.raises(ExecutionError, match="no file on disk holds that"):
            place.run(flow)
        flow["quantize"]["inputs"]["model"] = ["on_top", 0]
        with pytest.raises(ExecutionError, match=r"acts beside the weights .*Load LoRA"):
            place.run(flow)
        assert not list((place.output / "checkpoints").glob(f"{kind}*"))
