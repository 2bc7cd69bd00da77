"""Files in 4 and 8 bits for ComfyUI's own loaders: written from a measured model, opened by those and by ours."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core.metrics import compare_images
from tests.server.test_mixed import exact
from tests.support import workflows as w
from tests.support.probing import PROBE, UNET, loaded, probe
from tests.support.server import ComfyServer, ExecutionError

NAME = "comfy_mixed.safetensors"
LORA = "comfy_mixed_lora.safetensors"
STOCK = {"loader": w.node("CheckpointLoaderSimple", ckpt_name=NAME)}


@pytest.fixture(scope="module")
def mixing(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with a file at 72 % of the original's bytes, the exact model beside it, and a LoRA."""
    with ComfyServer(comfyui, tmp_path_factory.mktemp("comfy_mixed"), packs=(PROBE,)) as server:
        flow = w.calibrated("cal", session="comfy_mixed", steps=3, rows=64)
        flow |= w.quantize(
            ["calibrate", 1], ["cal_sampler", 0], mode="comfy-mixed", rounding="calibrated", filename=NAME,
            model=["loader", 0], budget="72%",
        )  # fmt: skip
        server.run(flow)
        path = server.output / "checkpoints" / NAME
        done = {k: v.float() if k.startswith(UNET) else v for k, v in exact(path).items()}
        save_file(done, server.checkpoints / f"exact_{NAME}")
        server.get("/object_info")
        yield server


def opens_in_stock(comfyui: Path) -> bool:
    """Whether this ComfyUI knows NVFP4, by its source."""
    return '"nvfp4"' in (comfyui / "comfy/quant_ops.py").read_text(encoding="utf-8")


def test_what_our_loader_holds_is_what_the_file_defines(mixing: ComfyServer) -> None:
    path = mixing.output / "checkpoints" / NAME
    held, file = probe(mixing, "held", loaded(NAME)), load_file(path)
    packed = 0
    for key, weight in exact(path).items():
        if not (key.startswith(UNET) and key.endswith(".weight") and weight.dim() > 1):
            continue
        layer = key.removeprefix(UNET).removesuffix(".weight")
        if file[key].dtype == torch.uint8:
            assert torch.equal(held[f"{layer}.weight"], file[key]), layer
            assert torch.equal(held[f"{layer}.computed"], weight.float()), layer
            packed += 1
        else:  # rotated layers are turned back when they are loaded
            torch.testing.assert_close(held[f"{layer}.computed"], weight.float(), rtol=1e-3, atol=1e-4)
    assert packed > 20
    with safe_open(path, "pt") as opened:
        said = opened.metadata()
    assert said["hswq.mode"] == "comfy-mixed"
    assert {"nvfp4", "int8_tensorwise", "kept"} == set(json.loads(said["hswq.layers_by_form"]))
    stock = {"loader": w.node("CheckpointLoaderSimple", ckpt_name=f"exact_{NAME}")}
    reference = probe(mixing, "exact", stock)["unet.output"]
    assert (held["unet.output"] - reference).norm() <= 1e-3 * reference.norm()


def test_stock_opens_it_and_computes_the_same_weights(mixing: ComfyServer, comfyui: Path) -> None:
    if not opens_in_stock(comfyui):
        with pytest.raises(ExecutionError):
            probe(mixing, "stock", STOCK)
        return
    path = mixing.output / "checkpoints" / NAME
    held, file = probe(mixing, "stock", STOCK), load_file(path)
    packed = 0
    for key, weight in exact(path).items():
        layer = key.removeprefix(UNET).removesuffix(".weight")
        if file[key].dtype == torch.uint8 and key.endswith(".weight"):
            # By comfy-kitchen's own dequantization, bit for bit.
            assert torch.equal(held[f"{layer}.computed"], weight.float()), layer
            packed += 1
    assert packed > 20
    ours, original = probe(mixing, "ours", loaded(NAME)), probe(mixing, "plain", loaded(w.TINY))["unet.output"]
    # Stock rounds inputs, too.
    for output in (held["unet.output"], ours["unet.output"]):
        assert (output - original).square().sum() <= 1e-3 * original.square().sum()
    assert (held["unet.output"] - ours["unet.output"]).square().sum() <= 3e-4 * original.square().sum()


def test_its_images_are_those_of_the_original(mixing: ComfyServer, comfyui: Path) -> None:
    flows = {"original": w.plain("original"), "ours": w.hswq_loaded("ours", NAME)}
    if opens_in_stock(comfyui):
        flows["stock"] = w.plain("stock", NAME)
    images = {}
    for name, flow in flows.items():
        picture = Image.open(mixing.images(mixing.run(flow), f"{name}_image")[0]).convert("RGB")
        values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).float() / 255
        images[name] = values.view(1, *picture.size[::-1], 3)
    for name in images.keys() - {"original"}:
        assert compare_images(images["original"], images[name]).ssim > 0.98, name


def test_a_lora_is_added_to_packed_layers(mixing: ComfyServer) -> None:
    file = load_file(mixing.output / "checkpoints" / NAME)
    key = next(k for k, t in file.items() if k.endswith(".attn1.to_q.weight") and t.dtype == torch.uint8)
    layer, generator = key.removeprefix(UNET).removesuffix(".weight"), torch.Generator().manual_seed(0)
    rows, columns = file[key].shape[0], 2 * file[key].shape[1]
    up, down = (torch.randn(shape, generator=generator) * 0.1 for shape in ((rows, 4), (4, columns)))
    name = f"diffusion_model.{layer}"
    folder = mixing.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, folder / LORA)
    mixing.get("/object_info")
    flow = loaded(NAME)
    flow["lora"] = w.node("LoraLoaderModelOnly", model=["loader", 0], lora_name=LORA, strength_model=1.0)
    patched = probe(mixing, "lora", flow, ["lora", 0])[f"{layer}.computed"]
    plain = exact(mixing.output / "checkpoints" / NAME)[key].float()
    torch.testing.assert_close(patched, plain + up @ down, rtol=1e-3, atol=1e-4)
    again = probe(mixing, "without", loaded(NAME))[f"{layer}.computed"]
    assert torch.equal(again, plain)


def test_it_is_saved_as_it_is(mixing: ComfyServer) -> None:
    flow = loaded(NAME)
    flow["save"] = w.node(
        "CheckpointSave", model=["loader", 0], clip=["loader", 1], vae=["loader", 2], filename_prefix="saved/mixed"
    )
    mixing.run(flow)
    target = mixing.checkpoints / "saved_comfy_mixed.safetensors"
    next((mixing.output / "saved").glob("mixed*.safetensors")).rename(target)
    mixing.get("/object_info")
    before, after = load_file(mixing.output / "checkpoints" / NAME), load_file(target)
    for key in (key for key, tensor in before.items() if key.endswith(".weight") and tensor.dtype == torch.uint8):
        for name in (key, f"{key}_scale", f"{key}_scale_2", key.replace(".weight", ".comfy_quant")):
            assert torch.equal(before[name].reshape(-1).view(torch.uint8), after[name].reshape(-1).view(torch.uint8))
    again = probe(mixing, "again", loaded(target.name))["unet.output"]
    assert torch.equal(again, probe(mixing, "before", loaded(NAME))["unet.output"])
