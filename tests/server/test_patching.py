"""What ComfyUI does to a model beyond loading it: LoRA, control nets, merging, saving."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core import convert
from tests.conftest import DEFAULT, FP8_STORAGE
from tests.server.test_loader import assert_as_in_file, path_of
from tests.support import workflows as w
from tests.support.probing import CODES, Tensors, exact, loaded, probe, unet_of
from tests.support.server import ComfyServer, ExecutionError

LORA = "test.safetensors"

pytestmark = pytest.mark.parametrize(
    "probing",
    [pytest.param("default", id=DEFAULT), pytest.param("fp8-storage", id=FP8_STORAGE, marks=pytest.mark.stress)],
    indirect=True,
)


@pytest.fixture(params=["v2", "int8"])
def kind(request: pytest.FixtureRequest) -> str:
    """The format of the file that is patched."""
    return str(request.param)


@pytest.fixture
def deltas(probing: ComfyServer, kind: str) -> Iterator[Tensors]:
    """A LoRA on every quantized layer of the file, in the server's folder; what it adds, by layer."""
    generator = torch.Generator().manual_seed(0)
    lora, deltas = {}, {}
    for key, stored in unet_of(path_of(probing, kind)).items():
        if key.endswith(".weight") and stored.dtype in CODES:
            layer, (rows, columns) = key.removesuffix(".weight"), (stored.shape[0], stored[0].numel())
            up = torch.randn(rows, 2, generator=generator) * 0.02
            down = torch.randn(2, columns, generator=generator) * 0.02
            name = "lora_unet_" + layer.replace(".", "_")
            if stored.dim() == 4:
                down, up = down.view(2, *stored.shape[1:]), up.view(rows, 2, 1, 1)
            lora |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
            deltas[layer] = (up.flatten(1) @ down.flatten(1)).view(stored.shape)
    folder = probing.base / "models/loras"
    folder.mkdir(exist_ok=True)
    save_file(lora, folder / LORA)
    probing.get("/object_info")
    yield deltas


def weights_of(path: Path) -> Tensors:
    """The float32 weights by layer that a checkpoint stands for."""
    prefix = "model.diffusion_model."
    tensors = {k.removeprefix(prefix): v for k, v in exact(load_file(path)).items() if k.startswith(prefix)}
    return {k.removesuffix(".weight"): v for k, v in tensors.items() if k.endswith(".weight")}


def with_lora(kind: str, strength: float) -> w.Workflow:
    lora = w.node("LoraLoaderModelOnly", model=["loader", 0], lora_name=LORA, strength_model=strength)
    return loaded(f"{kind}.safetensors") | {"lora": lora}


@pytest.mark.parametrize("room", [None, 0.0, 1.1])
def test_a_lora_is_added_to_the_real_weights_and_leaves_no_trace(
    probing: ComfyServer, kind: str, deltas: Tensors, room: float | None
) -> None:
    """Args: room: for so much of the model is room on the card; ``None`` for as much as is wanted."""
    lowvram = room is not None
    weights = weights_of(path_of(probing, kind))
    for strength in (1.0, -0.5):
        name = f"lora_{kind}_{strength}_{room}"
        held = probe(probing, name, with_lora(kind, strength), ["lora", 0], lowvram=lowvram, room=room or 0.0)
        for layer, delta in deltas.items():
            expected = weights[layer] + strength * delta
            error = (held[f"{layer}.computed"] - expected).abs().max()
            assert error <= 2.0**-10 * expected.abs().max(), layer
            assert (held[f"{layer}.weight"].dtype in CODES) == lowvram, layer  # low VRAM adds as the layer runs
    without = probe(probing, f"without_{kind}_{room}", loaded(f"{kind}.safetensors"))
    assert_as_in_file(without, path_of(probing, kind))


def test_layers_that_give_way_to_others_get_a_lora_once(probing: ComfyServer, kind: str, deltas: Tensors) -> None:
    weights = weights_of(path_of(probing, kind))
    room = {"lowvram": True, "room": 1.1, "unload": 0.5}
    held = probe(probing, f"gave_way_{kind}", with_lora(kind, 1.0), ["lora", 0], **room)
    for layer, delta in deltas.items():
        expected = weights[layer] + delta
        assert (held[f"{layer}.computed"] - expected).abs().max() <= 2.0**-10 * expected.abs().max(), layer
    before, kept = held["unet.patches"].tolist()
    assert before == len(deltas) and 0 < kept < before, "those of layers that stay are left near their weights"


def test_a_lora_changes_it_as_it_changes_fp16(probing: ComfyServer, kind: str, deltas: Tensors) -> None:
    """The image is as close to FP16's with the LoRA as it is without."""
    flow = with_lora(kind, 0.3) | {"original": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)}
    if probing.arguments:
        flow["original"] = w.node("HSWQLoader", ckpt_name=w.TINY)  # stock would store FP8
    lora = w.node("LoraLoaderModelOnly", model=["original", 0], lora_name=LORA, strength_model=0.3)
    flow["original_lora"] = lora
    models = {"ours": "loader", "ours_lora": "lora", "fp16": "original", "fp16_lora": "original_lora"}
    for name, model in models.items():
        flow |= w.sampling([model, 0], ["original", 1], ["original", 2], name, steps=8, batch=4, prompt="fox face")
    for end in ("", "_lora"):
        images = {"reference": [f"fp16{end}_decode", 0], "candidate": [f"ours{end}_decode", 0]}
        flow[f"compare{end}"] = w.node("HSWQCompare", **images)
        flow[f"ssim{end}"] = w.node("PreviewAny", source=[f"compare{end}", 1])
    outputs = probing.run(flow)
    plain, changed = (float(outputs[f"ssim{end}"]["text"][0]) for end in ("", "_lora"))
    images = [probing.images(outputs, f"{name}_image")[0].read_bytes() for name in ("fp16", "fp16_lora")]
    assert images[0] != images[1]
    assert changed >= plain - 0.005, (plain, changed)


@pytest.mark.parametrize("is_first", [True, False])
def test_merging_with_another_model(probing: ComfyServer, kind: str, is_first: bool) -> None:
    first, second = (kind, "fp16") if is_first else ("fp16", kind)
    flow = loaded(f"{first}.safetensors") | {"second": w.node("HSWQLoader", ckpt_name=f"{second}.safetensors")}
    flow["merge"] = w.node("ModelMergeSimple", model1=["loader", 0], model2=["second", 0], ratio=0.25)
    held = probe(probing, f"merge_{first}_{second}", flow, ["merge", 0])
    one, other = (weights_of(path_of(probing, name)) for name in (first, second))
    for layer, weight in one.items():
        expected = 0.25 * weight + 0.75 * other[layer]
        error = (held[f"{layer}.computed"] - expected).abs().max()
        assert error <= 2.0**-10 * expected.abs().max(), layer


@pytest.mark.parametrize("node", ["CheckpointSave", "ModelSave"])
def test_a_saved_model_opens_again_as_it_was(probing: ComfyServer, kind: str, node: str) -> None:
    flow, folder = loaded(f"{kind}.safetensors"), "checkpoints" if node == "CheckpointSave" else "diffusion_models"
    inputs = {"model": ["loader", 0], "filename_prefix": f"{folder}/saved_{kind}"}
    if node == "CheckpointSave":
        inputs |= {"clip": ["loader", 1], "vae": ["loader", 2]}
    flow["save"] = w.node(node, **inputs)
    probing.run(flow)
    saved = next((probing.output / folder).glob(f"saved_{kind}*.safetensors"))
    before, after = unet_of(path_of(probing, kind)), unet_of(saved)
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype, key
        assert after[key].shape == tensor.shape and torch.equal(after[key].float(), tensor.float()), key
    probing.get("/object_info")
    loader = (
        w.node("HSWQLoader", ckpt_name=saved.name)
        if node == "CheckpointSave"
        else w.node("HSWQDiffusionModelLoader", unet_name=saved.name)
    )
    assert_as_in_file(probe(probing, f"saved_{kind}_{node}", {"loader": loader}), saved)
    if kind == "int8":
        assert_refused_by_stock(probing, node, saved)


def assert_refused_by_stock(probing: ComfyServer, node: str, saved: Path) -> None:
    """Where integers would be taken for weights; and what was converted from the file is one for any loader again."""
    for name, refused in ((saved.name, True), (f"{saved.stem}_fp16.safetensors", False)):
        kinds = {
            "CheckpointSave": w.node("CheckpointLoaderSimple", ckpt_name=name),
            "ModelSave": w.node("UNETLoader", unet_name=name, weight_dtype="default"),
        }
        flow = {"loader": kinds[node], "text": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)}
        flow |= w.sampling(["loader", 0], ["text", 1], ["text", 2], "stock", steps=1)
        if refused:
            with pytest.raises(ExecutionError, match="hswq_int8: open this file with HSWQ Loader"):
                probing.run(flow)
            convert(saved, saved.with_stem(f"{saved.stem}_fp16"), "fp16", overwrite=True)
            probing.get("/object_info")
        else:
            probing.run(flow)


def test_a_model_saved_with_its_lora(probing: ComfyServer, kind: str, deltas: Tensors) -> None:
    some = dict(list(deltas.items())[::2])
    lora = load_file(probing.base / "models/loras" / LORA)
    names = tuple("lora_unet_" + layer.replace(".", "_") + "." for layer in some)
    save_file({k: v for k, v in lora.items() if k.startswith(names)}, probing.base / "models/loras" / LORA)
    flow = with_lora(kind, 1.0)
    flow["save"] = w.node(
        "CheckpointSave",
        model=["lora", 0],
        clip=["loader", 1],
        vae=["loader", 2],
        filename_prefix=f"checkpoints/baked_{kind}",
    )
    probing.run(flow)
    saved = max((probing.output / "checkpoints").glob(f"baked_{kind}*.safetensors"))
    weights, after = weights_of(path_of(probing, kind)), weights_of(saved)
    for layer, weight in weights.items():
        expected = weight + some.get(layer, 0)
        assert (after[layer] - expected).abs().max() <= 2.0**-10 * expected.abs().max(), layer
    probing.get("/object_info")
    assert_as_in_file(probe(probing, f"baked_{kind}", loaded(saved.name)), saved)


@pytest.mark.parametrize("net", ["full", "lora"])
def test_a_control_net_acts_as_on_the_exact_model(probing: ComfyServer, kind: str, net: str) -> None:
    (probing.base / "models/controlnet").mkdir(exist_ok=True)
    flow = loaded("fp16.safetensors")
    flow["make"] = w.node("ProbeControlNets", model=["loader", 0], folder=str(probing.base / "models/controlnet"))
    probing.run(flow)
    probing.get("/object_info")

    flow = {}
    for name in (kind, f"{kind}_exact"):
        flow |= w.hswq_loaded(name, f"{name}.safetensors", steps=3)
        w.add_control_net(flow, name, f"{net}.safetensors")
    flow |= w.hswq_loaded("plain", f"{kind}.safetensors", steps=3)
    for other, reference in ((kind, f"{kind}_exact"), ("plain", kind)):
        images = {"reference": [f"{reference}_decode", 0], "candidate": [f"{other}_decode", 0]}
        flow[f"{other}_compare"] = w.node("HSWQCompare", **images)
        flow[f"{other}_ssim"] = w.node("PreviewAny", source=[f"{other}_compare", 1])
    outputs = probing.run(flow)
    assert float(outputs[f"{kind}_ssim"]["text"][0]) >= 0.999
    assert float(outputs["plain_ssim"]["text"][0]) < 0.95  # the net does something
