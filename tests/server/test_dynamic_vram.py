"""Models of every mode with ComfyUI's dynamic VRAM, on a card that is emulated with its memory.

They are held against the same files without it, on the same card.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils import backend_registration

from hswq_core import inspect, load_statistics, quantize
from hswq_core.calibration.statistics import Statistics
from hswq_core.files.decode import decode_layer
from hswq_core.formats import FORMATS
from hswq_core.formats.refusal import is_refusal
from tests.support import workflows as w
from tests.support.loras import write_lora
from tests.support.probing import MODES, PROBE, UNET, Tensors, loaded, probe, unet_of
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer

LORA = "on_some_layers.safetensors"
BUDGETS = {"mixed": "45%", "comfy-mixed": "75%"}
ALL_MODES = (*MODES, *BUDGETS)
SOME = ("v2", "int8", "mixed")
PLENTY, HALF, NONE = 100.0, 0.5, 0.0
PAGE = 16 << 10
CLOSE, ROUNDED = 1e-3, 2 / 255
"""How far images are apart; the second where one of them has its LoRA rounded to 16 bits, as without dynamic VRAM."""
_salt = itertools.count()


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
        statistics = with_impacts(load_statistics(server.output / "hswq/paging.safetensors"))
        for mode in ALL_MODES:
            how = {"budget": BUDGETS[mode], "selection": "measured"} if mode in BUDGETS else {"keep_ratio": 0.1}
            quantize(TINY_CHECKPOINT, path_of(server, mode), statistics, mode=mode, rotate=mode == "comfy-int8", **how)
            save_file(exact(path_of(server, mode)), path_of(server, f"{mode}_exact"))
        write_lora(server, LORA)
        server.get("/object_info")
        yield server


def with_impacts(statistics: Statistics) -> Statistics:
    """Impacts by which a file of several forms has some layers in each."""
    for mode in BUDGETS:
        for number, form in enumerate(FORMATS[mode].forms):
            impacts = {name: 10.0 ** (-4 - number - place % 3) for place, name in enumerate(sorted(statistics.layers))}
            statistics = statistics.with_impacts(impacts, f"{form.name} nearest")
    return statistics


def exact(path: Path) -> Tensors:
    """The tensors of a file, those of the diffusion model in float32 and every scale multiplied in."""
    tensors = {key: tensor for key, tensor in load_file(path).items() if not is_refusal(key, tuple(tensor.shape))}
    for layer in inspect(path).quantized:
        stem = UNET + layer
        codes = tensors[f"{stem}.weight"]
        decoder = decode_layer(tensors, tensors.__getitem__, stem, tuple(codes.shape), path)
        tensors[f"{stem}.weight"] = decoder.dequantize(codes)
        for side in decoder.side_keys:
            del tensors[side]
    return {key: tensor.float() if key.startswith(UNET) else tensor for key, tensor in tensors.items()}


def path_of(server: ComfyServer, mode: str) -> Path:
    return server.checkpoints / f"{mode}.safetensors"


def drawing(
    file: str, name: str, *, room: float = PLENTY, lora: float = 0.0, hook: bool = False, classic: bool = False,
    steps: int = 3, until: int = 1000, compute: str = "exact",
) -> w.Workflow:  # fmt: skip
    """An image of a file's model, anew, on a card with room for so much of it; ``until`` is the last step."""
    salt, model = next(_salt), [f"{name}_pages", 0]
    flow = {
        f"{name}_loader": w.node("HSWQLoader", ckpt_name=f"{file}.safetensors", compute=compute),
        f"{name}_pages": w.node("ProbePages", model=[f"{name}_loader", 0], room=room, salt=salt),
        f"{name}_text": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY),
    }
    if classic:
        flow[f"{name}_classic"] = w.node("ProbeClassic", model=model)
        model = [f"{name}_classic", 0]
    if lora and not hook:
        flow[f"{name}_lora"] = w.node("LoraLoaderModelOnly", model=model, lora_name=LORA, strength_model=lora)
        model = [f"{name}_lora", 0]
    flow |= w.sampling(model, [f"{name}_text", 1], [f"{name}_text", 2], name, steps=steps)
    w.sample_anew(flow, name, salt)
    sampler = flow[f"{name}_sampler"]["inputs"]
    sampler["end_at_step"] = min(until, sampler["end_at_step"])
    if hook:
        flow[f"{name}_hook"] = w.node("CreateHookLoraModelOnly", lora_name=LORA, strength_model=lora)
        flow[f"{name}_hooked"] = w.node(
            "PairConditioningSetProperties", positive_NEW=[f"{name}_positive", 0], hooks=[f"{name}_hook", 0],
            negative_NEW=[f"{name}_negative", 0], strength=1.0, set_cond_area="default",
        )  # fmt: skip
        sampler |= {"positive": [f"{name}_hooked", 0], "negative": [f"{name}_hooked", 1]}
    flow[f"{name}_image"] = w.node("ProbeImage", images=[f"{name}_decode", 0], name=name)
    flow[f"{name}_counts"] = w.node("ProbeCounts", model=model, after=[f"{name}_sampler", 0])
    return flow


def drawn(server: ComfyServer, file: str, name: str, **how: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """The image [1, H, W, 3] in [0, 1], and what was told of the MODEL and the pages after it."""
    outputs = server.run(drawing(file, name, **how))
    return image(server, name), json.loads(outputs[f"{name}_counts"]["text"][0])


def image(server: ComfyServer, name: str) -> torch.Tensor:
    return load_file(server.output / f"{name}.image")["images"]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


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
        flow[f"{name}_sampler"]["inputs"]["end_at_step"] = 2000 + next(_salt)  # the same, and not from the cache
        paging.run(flow)
        images.append(image(paging, name))
        paging.post("/free", {"unload_models": True})
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
def test_calibrating_and_measuring_see_the_whole_model(paging: ComfyServer, loader: str) -> None:
    """With room for half of it, statistics, impacts and the quantized MODEL are what they are without dynamic VRAM."""
    found = {}
    for name, classic in (("paged", False), ("plain", True)):
        flow = {
            "loader": w.node(loader, ckpt_name=w.TINY),
            "pages": w.node("ProbePages", model=["loader", 0], room=HALF, salt=next(_salt)),
        }
        model = ["pages", 0]
        if classic:
            flow["classic"] = w.node("ProbeClassic", model=model)
            model = ["classic", 0]
        session = f"{name}_{loader}"
        flow["calibrate"] = w.node("HSWQCalibrate", model=model, session=session, rows_per_layer=64, reset=True)
        flow |= w.sampling(["calibrate", 0], ["loader", 1], ["loader", 2], "cal", steps=3)
        flow["measure"] = w.node(
            "HSWQMeasureSensitivity", model=model, stats=["calibrate", 1], mode="v2", probes=1,
            after=["cal_sampler", 0],
        )  # fmt: skip
        flow |= w.quantize(["measure", 0], model=model, filename=session, mode="int8", keep_ratio=0.0)
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
        assert layer.impacts.keys() == plain.layers[name].impacts.keys() and layer.impacts, name
        for purpose, impact in layer.impacts.items():
            assert impact == pytest.approx(plain.layers[name].impacts[purpose], rel=1e-2), (name, purpose)
    one, other = load_file(paged_file), load_file(plain_file)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
