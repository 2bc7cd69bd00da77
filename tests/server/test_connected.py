"""HSWQ Quantize with a MODEL connected: what is written is that MODEL, as ComfyUI itself would save it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hswq_core import inspect
from hswq_core.metrics import ssim
from tests.support import workflows as w
from tests.support.odd_folder import CALIBRATED, OTHER, calibrating, metadata, written
from tests.support.probing import UNET
from tests.support.server import TINY_CHECKPOINT, ComfyServer, ExecutionError


def connected(name: str, on_top: list[str], *, clip: bool = True, vae: bool = True, **options: Any) -> w.Workflow:
    """Loader, patches, calibration and quantization, with what is calibrated connected to HSWQ Quantize."""
    flow = calibrating(name, name)
    model, text = ["loader", 0], ["loader", 1]
    for kind in on_top:
        if kind == "merge":
            flow["second"] = w.node("CheckpointLoaderSimple", ckpt_name=OTHER)
            flow[kind] = w.node("ModelMergeSimple", model1=model, model2=["second", 0], ratio=0.3)
            model = [kind, 0]
        else:
            flow[kind] = w.node(
                "LoraLoader", model=model, clip=text, lora_name="fine.safetensors", strength_model=1, strength_clip=1
            )
            model, text = [kind, 0], [kind, 1]
    flow["calibrate"]["inputs"]["model"] = model
    flow |= w.quantize(
        ["calibrate", 1], [f"{name}_sampler", 0], model=model, filename=name, source=CALIBRATED, overwrite=True,
        **({"clip": text} if clip else {}), **({"vae": ["loader", 2]} if vae else {}), **options,
    )  # fmt: skip
    flow["path"] = w.node("PreviewAny", source=["quantize", 0])
    flow["saved"] = w.node("CheckpointSave", model=model, clip=text, vae=["loader", 2], filename_prefix=name)
    return flow


def saved(place: ComfyServer, name: str) -> dict[str, torch.Tensor]:
    return load_file(max(place.output.glob(f"{name}_0*.safetensors")))


def pixels(place: ComfyServer, name: str) -> torch.Tensor:
    """The picture that was saved last under a name: [1, H, W, 3] in [0, 1]."""
    path = max(place.output.glob(f"{name}_0*.png"))
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))[None]).float() / 255


@pytest.mark.parametrize("on_top", [["lora"], ["merge"], ["merge", "lora"]], ids="+".join)
def test_a_patched_model_is_written_with_its_patches(place: ComfyServer, on_top: list[str]) -> None:
    name = "_".join(["baked", *on_top])
    path = written(place.run(connected(name, on_top)))
    found, expected = load_file(path), saved(place, name)
    quantized = set(inspect(path).quantized)
    original = load_file(place.checkpoints / w.TINY)
    assert quantized and path.parent == place.output / "checkpoints"
    for key, tensor in expected.items():
        layer = key.removeprefix(UNET).removesuffix(".weight")
        if layer in quantized:
            scaled = found[key].float() * found[f"{UNET}{layer}.scale"]
            assert (scaled - tensor.float()).abs().max() <= tensor.float().abs().max() / 16
        else:
            # ComfyUI holds all in float32 here, and saves it so; in the file it has the type that it came in.
            dtype = original.get(key, tensor).dtype
            assert found[key].dtype == dtype and torch.equal(found[key], tensor.to(dtype)), key
            if (
                key in original
                and not key.startswith(UNET)
                and (on_top == ["merge"] or key.startswith("first_stage_model."))
            ):
                assert torch.equal(found[key], original[key]), key
    assert path.stat().st_size < 0.8 * (place.checkpoints / w.TINY).stat().st_size
    assert found.keys() - expected.keys() == {f"{UNET}{layer}.scale" for layer in quantized}
    assert metadata(path)["hswq.source_patches"]
    assert any(not torch.equal(original[key], expected[key]) for key in original if key.startswith(UNET))


@pytest.mark.parametrize("first", ["F16", "F32"])
def test_a_merge_is_written_in_the_types_of_its_first_model(place: ComfyServer, first: str) -> None:
    """Whatever the second one has, and though a LoRA is on the text encoder: it is the first one's."""
    wide = {k: t.float() if t.is_floating_point() else t for k, t in load_file(place.checkpoints / OTHER).items()}
    save_file(wide, place.checkpoints / "wide.safetensors")
    place.get("/object_info")
    flow = connected(f"types_{first}", ["merge", "lora"])
    files = (w.TINY, "wide.safetensors") if first == "F16" else ("wide.safetensors", w.TINY)
    for node, file in zip(("loader", "second"), files, strict=True):
        flow[node]["inputs"]["ckpt_name"] = file
    path = written(place.run(flow))
    own, found = load_file(place.checkpoints / files[0]), load_file(path)
    quantized = {f"{UNET}{layer}.weight" for layer in inspect(path).quantized}
    assert quantized
    for key in own.keys() & found.keys() - quantized:
        assert found[key].dtype == own[key].dtype, key


def test_the_picture_of_a_merge_with_a_lora_is_as_close_as_that_of_a_file(place: ComfyServer) -> None:
    def fidelity(name: str, on_top: list[str]) -> float:
        path = written(place.run(connected(name, on_top, keep_ratio=0.25)))
        place.run(w.hswq_loaded(f"{name}_again", path.name, steps=3))
        return float(ssim(pixels(place, name), pixels(place, f"{name}_again")))

    plain, patched = fidelity("plain_file", []), fidelity("merged", ["merge", "lora"])
    assert patched >= plain - 0.01 and plain > 0.9


def test_an_unpatched_file_is_written_to_the_byte(place: ComfyServer) -> None:
    place.run(calibrating("untouched", "untouched"))
    place.get("/object_info")
    written_as = []
    for name in ("with_model", "without"):
        flow = {"stats": w.node("HSWQLoadStatistics", file="untouched.safetensors")}
        flow |= w.quantize(["stats", 0], source=CALIBRATED, filename=name)
        flow["path"] = w.node("PreviewAny", source=["quantize", 0])
        if name == "with_model":
            flow["loader"] = w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)
            flow["quantize"]["inputs"] |= {"model": ["loader", 0], "clip": ["loader", 1], "vae": ["loader", 2]}
        written_as.append(written(place.run(flow)).read_bytes())
    assert written_as[0] == written_as[1]


def test_what_is_not_connected_comes_from_the_file(place: ComfyServer) -> None:
    path = written(place.run(connected("half", ["lora"], clip=False, vae=False)))
    found, original = load_file(path), load_file(place.checkpoints / w.TINY)
    rest = [key for key in original if not key.startswith(UNET)]
    assert rest and all(torch.equal(found[key], original[key]) for key in rest)
    # A merge is of no single file.
    alone = written(place.run(connected("lonely", ["merge"], clip=False, vae=False)))
    assert alone.parent == place.output / "diffusion_models"
    assert all(key.startswith(UNET) for key in load_file(alone))


def test_statistics_of_other_patches_are_refused(place: ComfyServer) -> None:
    flow = connected("mixed", ["lora"])
    flow["calibrate"]["inputs"]["model"] = ["loader", 0]
    with pytest.raises(ExecutionError, match="calibrated without a LoRA or a merge on top, and this model has patches"):
        place.run(flow)
    flow = connected("mixed2", ["lora"])
    flow["quantize"]["inputs"]["model"] = ["loader", 0]
    with pytest.raises(ExecutionError, match="with a LoRA or a merge on top"):
        place.run(flow)
    assert not list(place.output.glob("checkpoints/mixed*"))


def test_default_names_tell_a_merge_from_its_file(place: ComfyServer) -> None:
    flow = connected("named", ["merge"])
    flow["quantize"]["inputs"]["filename"] = ""
    assert written(place.run(flow)).name == "hswq_tiny+other_merged_hswq_r1_r0.1_v2.safetensors"


def test_renamed_keys_of_a_source_do_not_matter(place: ComfyServer) -> None:
    """A pickled checkpoint: no safetensors reader opens it, but ComfyUI does."""
    torch.save({"state_dict": load_file(place.checkpoints / w.TINY)}, place.checkpoints / "pickled.ckpt")
    place.get("/object_info")
    flow = connected("from_ckpt", [])
    flow["loader"]["inputs"]["ckpt_name"] = "pickled.ckpt"
    path = written(place.run(flow))
    assert "pickled.ckpt is no safetensors file: connect the MODEL" in place.log
    assert path.parent == place.output / "checkpoints"
    place.run(w.hswq_loaded("from_ckpt_again", path.name, steps=3))
    assert len(json.loads(metadata(path)["hswq.kept_layers"])) == len(inspect(path).unquantized)
    assert Path(path).stat().st_size < (place.checkpoints / "pickled.ckpt").stat().st_size


def test_another_model_than_the_calibrated_one_is_not_taken_for_the_file(place: ComfyServer) -> None:
    """The file that is named and the statistics are of one model, and what is connected is another."""
    other = {k: v * 1.1 if k.startswith(UNET) else v for k, v in load_file(TINY_CHECKPOINT).items()}
    save_file(other, place.checkpoints / "tuned.safetensors")
    place.get("/object_info")
    place.run(w.calibrated("cal", session="not_this", steps=1))
    flow = {
        "stats": w.node("HSWQLoadStatistics", file="not_this.safetensors"),
        "tuned": w.node("CheckpointLoaderSimple", ckpt_name="tuned.safetensors"),
    }
    flow |= w.quantize(["stats", 0], source=w.TINY, filename="not_this", model=["tuned", 0])
    with pytest.raises(ExecutionError, match="another model"):
        place.run(flow)
    assert not (place.output / "checkpoints/not_this.safetensors").exists()
