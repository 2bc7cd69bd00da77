"""Models of every mode with ComfyUI's dynamic VRAM, on a card that is emulated with its memory.

They are held against the same files without it, on the same card.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils import backend_registration

from hswq_core import load_statistics
from tests.support import workflows as w
from tests.support.loras import write_lora
from tests.support.paging import ALL_MODES, LORA, distance, drawing, drawn, image, path_of, salts, write_modes
from tests.support.probing import PROBE, UNET, loaded, probe, unet_of
from tests.support.server import REPOSITORY, ComfyServer

SOME = ("v2", "int8", "mixed")
HALF, NONE = 0.5, 0.0
PAGE = 16 << 10
CLOSE, ROUNDED = 1e-3, 2 / 255
"""How far images are apart; the second where one of them has its LoRA rounded to 16 bits, as without dynamic VRAM."""


@pytest.fixture(scope="module")
def paging(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server on the emulated card, with a file of each mode, made there, and the LoRA."""
    if "class ModelPatcherDynamic" not in (comfyui / "comfy/model_patcher.py").read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI has no dynamic VRAM")
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch takes no device that is written in Python")
    packs = (PROBE, REPOSITORY / "tests/dynamic_pack")
    with ComfyServer(comfyui, tmp_path_factory.mktemp("paging"), packs=packs) as server:
        server.run(w.calibrated("cal", session="paging", steps=3, rows=16, loader="HSWQLoader"))
        write_modes(server, load_statistics(server.output / "hswq/paging.safetensors"))
        write_lora(server, LORA)
        server.get("/object_info")
        yield server


@pytest.mark.parametrize("until", [1, 10])
@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_lora_is_as_on_the_dequantized_model_in_the_first_step_and_the_tenth(
    paging: ComfyServer, mode: str, until: int
) -> None:
    found, told = drawn(paging, mode, "ours", lora=0.7, steps=10, until=until, room=HALF)
    assert "Dynamic" in told["class"] and told["evicted"] and told["refused"]
    expected, told = drawn(paging, f"{mode}_exact", "reference", lora=0.7, steps=10, until=until, classic=True)
    assert "Dynamic" not in told["class"]
    assert distance(found, expected) <= CLOSE


@pytest.mark.parametrize("lora", [0.0, 0.7])
@pytest.mark.parametrize("mode", SOME)
def test_how_much_memory_there_is_changes_nothing(paging: ComfyServer, mode: str, lora: float) -> None:
    whole, told = drawn(paging, mode, "whole", lora=lora)
    assert told["resident"] > told["loaded"] > 0 and "refused" not in told
    for room in (HALF, NONE):
        found, told = drawn(paging, mode, "part", lora=lora, room=room)
        assert told["refused"] and bool(told.get("evicted")) == bool(room)
        assert torch.equal(found, whole), room
        assert told["pinned"] == 0, "a page that is never given back cannot be taken"


@pytest.mark.parametrize("mode", ALL_MODES)
def test_what_is_held_is_what_the_file_has(paging: ComfyServer, mode: str) -> None:
    tensors = unet_of(path_of(paging, mode))
    file = sum(tensor.nbytes for tensor in tensors.values())
    _, told = drawn(paging, mode, "held")
    # The schedule's tables are the model's, too; scales count when they are paged in. Each tensor begins at a multiple
    # of 1,024 bytes, and pages are whole.
    assert 0.97 * file <= told["size"] <= file + 40_000
    assert 0.97 * file <= told["held"] <= file + 40_000 + 1024 * len(tensors) + PAGE, told


@pytest.mark.parametrize(("mode", "lora"), [*((mode, 0.0) for mode in ALL_MODES), *((mode, 0.7) for mode in SOME)])
def test_without_dynamic_vram_it_is_the_same_model(paging: ComfyServer, mode: str, lora: float) -> None:
    found, told = drawn(paging, mode, "classic", lora=lora, classic=True)
    assert told["class"] == "QuantizedModelPatcher"
    expected, _ = drawn(paging, mode, "dynamic", lora=lora)
    assert torch.equal(found, expected) if not lora else distance(found, expected) <= ROUNDED


@pytest.mark.parametrize("mode", SOME)
def test_a_hook_lora_is_one_on_the_model(paging: ComfyServer, mode: str) -> None:
    """ComfyUI takes a MODEL without dynamic VRAM for hooks; afterwards all is as before."""
    plain, _ = drawn(paging, mode, "plain")
    expected, _ = drawn(paging, mode, "on_model", lora=0.7)
    found, _ = drawn(paging, mode, "hooked", lora=0.7, hook=True)
    assert distance(found, expected) <= ROUNDED < 5 * ROUNDED < distance(found, plain)
    again, told = drawn(paging, mode, "again")
    assert torch.equal(again, plain) and "Dynamic" in told["class"]


@pytest.mark.parametrize("lora", [0.0, 0.7])
def test_unloading_changes_nothing(paging: ComfyServer, lora: float) -> None:
    flows = [drawing("v2", "unloaded", lora=lora, room=HALF), drawing("int8", "other", lora=lora, room=HALF)]
    images = []
    for flow in [*flows, *flows]:
        name = "unloaded" if "unloaded_sampler" in flow else "other"
        flow[f"{name}_sampler"]["inputs"]["end_at_step"] = 2000 + next(salts)  # the same, and not from the cache
        paging.run(flow)
        images.append(image(paging, name))
        paging.unload()
    assert torch.equal(images[0], images[2]) and torch.equal(images[1], images[3])
    assert not torch.equal(images[0], images[1])


def test_fast_multiplies_what_was_paged_in(paging: ComfyServer) -> None:
    found, told = drawn(paging, "int8", "fast", compute="fast", room=HALF)
    assert "Dynamic" in told["class"]
    classic, _ = drawn(paging, "int8", "fast_classic", compute="fast", classic=True)
    exact, _ = drawn(paging, "int8", "exact")
    assert torch.equal(found, classic) and not torch.equal(found, exact)


@pytest.mark.parametrize("lora", [0.0, 0.7])
@pytest.mark.parametrize("mode", SOME)
def test_what_is_saved_is_the_model(paging: ComfyServer, mode: str, lora: float) -> None:
    for name, classic in (("saved", False), ("saved_classic", True)):
        flow = drawing(mode, name, lora=lora, classic=classic, room=HALF)
        model = flow[f"{name}_sampler"]["inputs"]["model"]
        flow["save"] = w.node("ModelSave", model=model, filename_prefix=f"diffusion_models/{name}")
        paging.run(flow)
    one, other = (
        load_file(max((paging.output / "diffusion_models").glob(f"{name}_0*"))) for name in ("saved", "saved_classic")
    )
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert tensor.dtype == other[key].dtype, key
        # ComfyUI rounds the sums of 16-bit tensors up or down at random where it adds them in place.
        expected = other[key].float()
        limit = 2.0**-10 * expected.abs().amax() if lora and expected.numel() else 0
        assert ((tensor.float() - expected).abs() <= limit).all(), key


def test_a_copied_model(paging: ComfyServer) -> None:
    """A copy of a model that is in use takes nothing of the pages that are the original's."""
    flow = loaded("v2.safetensors") | {"copy": w.node("ProbeCopied", model=["loader", 0])}
    held, copied = (probe(paging, f"copied_{model[0]}", flow, model) for model in (["loader", 0], ["copy", 0]))
    assert held.keys() == copied.keys() and all(torch.equal(held[key].float(), copied[key].float()) for key in held)


def test_a_merge_of_two_models(paging: ComfyServer) -> None:
    flow = loaded("v2.safetensors") | {"second": w.node("HSWQLoader", ckpt_name="int8.safetensors")}
    flow["merge"] = w.node("ModelMergeSimple", model1=["loader", 0], model2=["second", 0], ratio=0.25)
    held = probe(paging, "merged", flow, ["merge", 0])
    first, second = (
        {k.removeprefix(UNET).removesuffix(".weight"): v.float() for k, v in load_file(path).items() if k in wanted}
        for path in (paging.checkpoints / f"{mode}_exact.safetensors" for mode in ("v2", "int8"))
        for wanted in [{f"{UNET}{key.removesuffix('.computed')}.weight" for key in held if key.endswith(".computed")}]
    )
    for layer, weight in first.items():
        expected = 0.25 * weight + 0.75 * second[layer]
        assert (held[f"{layer}.computed"] - expected).abs().max() <= 2.0**-9 * expected.abs().max(), layer


@pytest.mark.parametrize("loader", ["CheckpointLoaderSimple", "HSWQLoader"])
def test_calibrating_sees_the_whole_model(paging: ComfyServer, loader: str) -> None:
    """With room for half of it, statistics and the quantized MODEL are what they are without dynamic VRAM."""
    found = {}
    for name, classic in (("paged", False), ("plain", True)):
        flow = {
            "loader": w.node(loader, ckpt_name=w.TINY),
            "pages": w.node("ProbePages", model=["loader", 0], room=HALF, salt=next(salts)),
        }
        model = ["pages", 0]
        if classic:
            flow["classic"] = w.node("ProbeClassic", model=model)
            model = ["classic", 0]
        session = f"{name}_{loader}"
        flow["calibrate"] = w.node("HSWQCalibrate", model=model, session=session, rows_per_layer=0, reset=True)
        flow |= w.sampling(["calibrate", 0], ["loader", 1], ["loader", 2], "cal", steps=3)
        flow |= w.quantize(
            ["calibrate", 1], ["cal_sampler", 0], model=model, filename=session, mode="int8", keep_ratio=0.0
        )
        flow["pages_after"] = w.node("ProbeCounts", model=model, after=["quantize", 0])
        outputs = paging.run(flow)
        told = json.loads(outputs["pages_after"]["text"][0])
        assert ("Dynamic" in told["class"]) != classic and told["pinned"] == 0
        file = paging.output / "checkpoints" / f"{session}.safetensors"
        found[name] = load_statistics(paging.output / "hswq" / f"{session}.safetensors"), file
    (paged, paged_file), (plain, plain_file) = found["paged"], found["plain"]
    assert paged.layers.keys() == plain.layers.keys() and paged.fingerprint == plain.fingerprint
    for name, layer in paged.layers.items():
        assert torch.allclose(layer.second_moment, plain.layers[name].second_moment, rtol=1e-4), name
    one, other = load_file(paged_file), load_file(plain_file)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
