"""Files and requests as strangers have them: opened, or refused in one sentence."""

import json
import os
import shutil
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import workflows as w
from tests.support.odd_folder import CALIBRATED, calibrating, metadata, quantized, written
from tests.support.probing import UNET
from tests.support.server import TINY_CHECKPOINT, ComfyServer, ExecutionError


def test_a_merge_with_a_key_of_a_lora_left_in_it_opens(place: ComfyServer) -> None:
    save_file(
        load_file(TINY_CHECKPOINT) | {"lora_te_text.lora_up.weight": torch.ones(2, 2)},
        place.checkpoints / "left.safetensors",
    )
    place.get("/object_info")
    place.run(w.hswq_loaded("left", "left.safetensors", steps=1))


@pytest.mark.parametrize("name", ["model.sft", "MODEL.SAFETENSORS"])
def test_other_spellings_of_the_extension(place: ComfyServer, name: str) -> None:
    factor = 1 + len(name) / 100
    other = {k: v * factor if k.startswith(UNET) else v for k, v in load_file(TINY_CHECKPOINT).items()}
    save_file(other, place.checkpoints / name)
    if name not in json.dumps(place.get("/object_info/CheckpointLoaderSimple")):
        return  # this ComfyUI does not list it
    session = name.replace(".", "_")
    place.run(calibrating("spelled", session, checkpoint=name))
    file = place.output / f"hswq/{session}.safetensors"
    save_file(load_file(file), file, metadata(file) | {"hswq.source": ""})  # looked up by its weights
    flow = {"stats": w.node("HSWQLoadStatistics", file=file.name)} | w.quantize(
        ["stats", 0], source=CALIBRATED, overwrite=True
    )
    flow["path"] = w.node("PreviewAny", source=["quantize", 0])
    place.get("/object_info")
    assert written(place.run(flow)).is_file()


def test_a_long_name_in_another_script_is_shortened(place: ComfyServer) -> None:
    name = "画" * 75 + ".safetensors"  # 225 bytes
    save_file(load_file(TINY_CHECKPOINT), place.checkpoints / name)
    place.get("/object_info")
    flow = quantized("long", "default", "", checkpoint=name)
    path = written(place.run(flow))
    assert path.name.startswith("画") and path.name.endswith("_hswq_r1_r0.1_v2.safetensors") and path.is_file()
    flow["quantize"]["inputs"]["filename"] = "x" * 300
    with pytest.raises(ExecutionError, match="too long as a file name"):
        place.run(flow)


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/mem", "OUTPUT/../../secret.safetensors"])
def test_a_path_outside_of_comfyui_is_not_read(place: ComfyServer, path: str) -> None:
    save_file(load_file(TINY_CHECKPOINT), place.base.parent / "secret.safetensors")
    flow = w.hswq_loaded("outside", w.TINY, steps=1)
    flow["outside_loader"]["inputs"]["path"] = path.replace("OUTPUT", str(place.output))
    with pytest.raises(ExecutionError, match="none of ComfyUI's folders"):
        place.run(flow)


def test_lost_scales_are_told(place: ComfyServer) -> None:
    path = written(place.run(quantized("scaled", "scaled", "scaled")))
    stripped = {k: v for k, v in load_file(path).items() if not k.endswith(".scale")}
    save_file(stripped, place.checkpoints / "stripped.safetensors")
    place.get("/object_info")
    place.run(w.hswq_loaded("stripped", "stripped.safetensors", steps=1))
    assert "stripped.safetensors: the weights are far larger than any model's" in place.log
    with pytest.raises(ExecutionError, match="scale of the quantized layer"):
        save_file(stripped, place.checkpoints / "stripped.safetensors", metadata(path))
        place.run(w.hswq_loaded("stripped", "stripped.safetensors", steps=2))


def test_claims_that_are_no_longer_true_are_set_apart(place: ComfyServer) -> None:
    save_file(
        load_file(TINY_CHECKPOINT), place.checkpoints / "claims.safetensors",
        {"modelspec.hash_sha256": "0xabc", "modelspec.title": "Claims", "sshs_model_hash": "1"},
    )  # fmt: skip
    place.get("/object_info")
    found = metadata(written(place.run(quantized("claims", "default", "claims_v2", checkpoint="claims.safetensors"))))
    assert found["modelspec.hash_sha256"] != "0xabc" and "sshs_model_hash" not in found
    assert found["source.modelspec.hash_sha256"] == "0xabc" and found["modelspec.title"] == "Claims (HSWQ V2)"


def test_the_chart_answers_no_other_site(place: ComfyServer) -> None:
    place.run(calibrating("asked", "asked"))
    source = quote(w.TINY)
    address = f"http://127.0.0.1:{place.port}/hswq/curve?session=asked&source={source}&mode=v2&selection=error"
    with urllib.request.urlopen(address) as answer:
        assert len(json.load(answer)["layers"]) == 175
    request = urllib.request.Request(address, headers={"Sec-Fetch-Site": "cross-site"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as refused:
        assert refused.code == 403


def test_a_quantized_source_is_refused_before_anything_is_written(place: ComfyServer) -> None:
    path = written(place.run(quantized("once", "once", "once")))
    flow = {"stats": w.node("HSWQLoadStatistics", file="once.safetensors")}
    flow |= w.quantize(["stats", 0], source=path.name, filename="twice")
    place.get("/object_info")
    with pytest.raises(ExecutionError, match="quantized already"):
        place.run(flow)
    assert not (place.output / "checkpoints/twice.safetensors").exists()


NOT_UTF8 = os.fsdecode(b"b\xe4r.safetensors")
HALF = "half \ud83d"


def test_a_name_that_cannot_be_printed_ends_no_server(place: ComfyServer) -> None:
    (place.checkpoints / os.fsdecode(b"damaged\xff.safetensors")).write_bytes(b"no checkpoint")
    place.get("/object_info")
    with pytest.raises(ExecutionError, match=r"damaged\\udcff.safetensors: this is not a safetensors file"):
        place.run(w.hswq_loaded("damaged", os.fsdecode(b"damaged\xff.safetensors"), steps=1), timeout=60)
    place.run(w.hswq_loaded("next", w.TINY, steps=1), timeout=60)


@pytest.mark.parametrize("node", ["HSWQCalibrate", "HSWQCalibrateRun", "HSWQQuantize", "HSWQProve", "HSWQPublish"])
def test_half_of_a_character_in_a_workflow(place: ComfyServer, node: str) -> None:
    before = {*place.output.rglob("*.safetensors")}
    flow = quantized("half", "half", "half")
    drawing = {"sampler_name": "euler", "scheduler": "normal", "width": 256, "height": 256, "steps": 1, "cfg": 1.0}
    texts = {"model": ["loader", 0], "clip": ["loader", 1], "prompts": f"{HALF}.txt", "negative": "", **drawing}
    run = w.node("HSWQCalibrateRun", **texts, samples=1, seed=0, session="half", rows_per_layer=0)
    if node == "HSWQCalibrate":
        flow["calibrate"]["inputs"]["session"] = HALF
    elif node == "HSWQCalibrateRun":
        flow["quantize"]["inputs"]["stats"], flow["run"] = ["run", 0], run
    elif node == "HSWQQuantize":
        flow["quantize"]["inputs"]["filename"] = HALF
    elif node == "HSWQProve":
        models = {"reference": ["loader", 0], "candidate": ["loader", 0], "vae": ["loader", 2]}
        flow = {"loader": flow["loader"], "prove": w.node(node, **texts | models, seeds=1, seed=0)}
        del flow["prove"]["inputs"]["model"]
    else:
        about = {"title": HALF, "author": "", "licence": ""}
        flow["publish"] = w.node(node, path=["quantize", 0], **about)
        flow["quantize"]["inputs"]["filename"] = "published"
    with pytest.raises(ExecutionError, match="half"):
        place.run(flow, timeout=60)
    assert not [path.name for path in {*place.output.rglob("*.safetensors")} - before if "half " in path.name]
    place.run(w.hswq_loaded("next", w.TINY, steps=1, seed=len(node)), timeout=60)


def test_a_source_whose_name_is_not_utf8(place: ComfyServer) -> None:
    """It is quantized under a name that can be typed; ComfyUI itself cannot open it, which is said in a sentence."""
    source = place.checkpoints / NOT_UTF8
    shutil.copy(TINY_CHECKPOINT, source)
    place.get("/object_info")
    try:
        flow = quantized("odd", "odd", "", source=NOT_UTF8)
        flow["publish"] = w.node("HSWQPublish", path=["quantize", 0], title="", author="", licence="")
        flow["told"] = w.node("PreviewAny", source=["quantize", 1])
        outputs = place.run(flow, timeout=60)
        path = written(outputs)
        assert path.name == "b_r_hswq_r1_r0.1_v2.safetensors"
        assert metadata(path)["modelspec.title"] == "b\\udce4r (HSWQ V2)"
        place.get("/object_info")
        place.run(w.hswq_loaded("odd", path.name, steps=1), timeout=60)
        with pytest.raises(ExecutionError, match=r"b\\udce4r.safetensors: ComfyUI opens no file"):
            place.run(w.hswq_loaded("odd", NOT_UTF8, steps=1), timeout=60)
    finally:
        source.unlink()


@pytest.mark.parametrize("source", [CALIBRATED, "e5m2.safetensors"])
def test_a_calibrated_file_that_is_quantized_already_is_told_as_such(place: ComfyServer, source: str) -> None:
    """By its name and without, alike: there is no name that would help."""
    e5m2 = {
        key: value.to(torch.float8_e5m2) if key.startswith(UNET) and value.dim() > 1 else value
        for key, value in load_file(TINY_CHECKPOINT).items()
    }
    save_file(e5m2, place.checkpoints / "e5m2.safetensors")
    place.get("/object_info")
    place.run(calibrating("e5m2", "e5m2", checkpoint="e5m2.safetensors"))
    flow = {"stats": w.node("HSWQLoadStatistics", file="e5m2.safetensors")}
    flow |= w.quantize(["stats", 0], source=source, filename="from_e5m2")
    place.get("/object_info")
    with pytest.raises(ExecutionError, match=r"layers are quantized already \(F8_E5M2\)"):
        place.run(flow)
    assert not list(place.output.rglob("from_e5m2*"))
