"""What HSWQLoader puts in memory: FP8 codes with exact scales, and everything else bit for bit as in the file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hswq_core.rounding.rotation import rotated
from tests.conftest import DEFAULT
from tests.support import workflows as w
from tests.support.probing import FP8, MODES, Tensors, loaded, probe, scale_of, unet_of
from tests.support.server import TINY_CHECKPOINT, ComfyServer, ExecutionError

SCALED = ("v2", "comfy", "int8", "comfy-int8", "spelled", "scaled_fp8", "scalar", "per_channel")
KINDS = ("v1", *SCALED, "naive", "e5m2", "bfloat16", "fp16")


def path_of(server: ComfyServer, name: str) -> Path:
    written = server.output / f"checkpoints/{name}.safetensors"
    return written if written.exists() else server.checkpoints / written.name


def assert_as_in_file(held: Tensors, path: Path) -> None:
    file = unet_of(path)
    quantized = 0
    for key, stored in file.items():
        if not key.endswith((".weight", ".bias")):
            continue
        layer = key.rpartition(".")[0]
        if stored.element_size() == 1 and stored.dim() not in (2, 4):
            assert torch.equal(held[key].float(), stored.float()), key  # norms and biases of a naive cast
            continue
        assert held[key].dtype == stored.dtype, key
        assert torch.equal(held[key].view(torch.uint8), stored.view(torch.uint8)), key
        if stored.element_size() > 1:
            if key.endswith(".weight"):
                assert torch.equal(held[f"{layer}.computed"], stored.float()), key
            continue
        quantized += 1
        assert torch.equal(held[f"{layer}.computed"], stored.float() * scale_of(file, layer, stored)), key
    assert quantized > 50 or path.stem == "fp16"


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file(probing: ComfyServer, name: str) -> None:
    path = path_of(probing, name)
    held = probe(probing, name, loaded(f"{name}.safetensors"))
    assert_as_in_file(held, path)

    # The output of the UNet, against the one computed from the dequantized float32 weights.
    reference = probe(probing, f"{name}_exact", loaded(f"{name}_exact.safetensors"))["unet.output"]
    error = (held["unet.output"] - reference).norm() / reference.norm()
    assert error <= 1e-3, float(error)

    # Nothing was expanded, and nothing is held twice.
    on_disk = sum(tensor.nbytes for tensor in unet_of(path).values())
    assert int(held["unet.bytes"]) <= 1.02 * on_disk + (2**16 if name == "naive" else 0)

    formats = {"spelled": "v2", "scalar": "v2", "per_channel": "v2", "bfloat16": "v2", "fp16": "not quantized"}
    line = next(line for line in probing.log.splitlines() if f"HSWQ: {name}.safetensors:" in line)
    assert (
        f": {formats.get(name, 'v1' if name in ('naive', 'e5m2') else name)}," in line
        and f" layers in {'INT8' if 'int8' in name else 'FP8'}, " in line
    )


def test_the_exact_model_is_what_stock_computes(probing: ComfyServer) -> None:
    name = "v2_exact.safetensors"
    stock = probe(probing, "stock_exact", {"loader": w.node("CheckpointLoaderSimple", ckpt_name=name)})
    ours = probe(probing, "v2", loaded("v2.safetensors"))
    error = (ours["unet.output"] - stock["unet.output"]).norm() / stock["unet.output"].norm()
    stock_rounds = "--fp8_e4m3fn-unet" in probing.arguments
    assert (error > 1e-3) == stock_rounds, float(error)


def test_a_diffusion_model_of_its_own(probing: ComfyServer) -> None:
    held = probe(probing, "bare", {"loader": w.node("HSWQDiffusionModelLoader", unet_name="v2_unet.safetensors")})
    assert_as_in_file(held, probing.base / "models/diffusion_models/v2_unet.safetensors")


def test_the_stock_loader_damages_kept_layers_where_ours_keeps_them(probing: ComfyServer) -> None:
    stock = probe(probing, "stock", {"loader": w.node("CheckpointLoaderSimple", ckpt_name="v1.safetensors")})
    file = unet_of(path_of(probing, "v1"))
    kept = [k for k, t in file.items() if k.endswith(".weight") and t.dtype != FP8]
    damaged = [k for k in kept if not torch.equal(stock[f"{k.removesuffix('.weight')}.computed"], file[k].float())]
    if "--fp8_e4m3fn-unet" in probing.arguments:
        assert len(damaged) > len(kept) / 2
        with pytest.raises(ExecutionError, match="is quantized already"):
            probing.run(w.calibrated("fp8", session="fp8"))
    else:
        assert not damaged  # a CPU has no FP8 arithmetic, so here ComfyUI does not choose FP8 by itself


def test_the_stock_loader_opens_the_comfy_format_where_it_knows_it(probing: ComfyServer) -> None:
    held = probe(probing, "stock_comfy", {"loader": w.node("CheckpointLoaderSimple", ckpt_name="comfy.safetensors")})
    file = unet_of(path_of(probing, "comfy"))
    knows = "comfy_quant" in (probing.comfyui / "comfy/ops.py").read_text(encoding="utf-8")
    for key in [k for k, t in file.items() if k.endswith(".weight") and t.dtype == FP8]:
        layer = key.removesuffix(".weight")
        exact = file[key].float() * file[f"{layer}.weight_scale"]
        computed = held[f"{layer}.computed"]
        assert knows == bool((computed - exact).norm() <= 1e-3 * exact.norm()), layer


def test_the_stock_loader_opens_comfy_int8_where_it_knows_it(probing: ComfyServer) -> None:
    loader = {"loader": w.node("CheckpointLoaderSimple", ckpt_name="comfy-int8.safetensors")}
    if "int8_tensorwise" not in (probing.comfyui / "comfy/ops.py").read_text(encoding="utf-8"):
        return  # older versions read the integers as weights, and draw noise
    held = probe(probing, "stock_comfy_int8", loader)
    file = unet_of(path_of(probing, "comfy-int8"))
    layers = [k.removesuffix(".weight") for k, t in file.items() if k.endswith(".weight") and t.dtype == torch.int8]
    assert len(layers) > 50
    for layer in layers:
        exact = file[f"{layer}.weight"].float() * file[f"{layer}.weight_scale"]
        assert (held[f"{layer}.computed"] - exact).norm() <= 1e-3 * exact.norm(), layer


@pytest.mark.parametrize("probing", ["default"], ids=[DEFAULT], indirect=True)
def test_rotated_layers_are_turned_back_here_and_closer_in_stock(probing: ComfyServer) -> None:
    probing.run(w.straight_and_turned("rotating"))
    probing.get("/object_info")
    file = unet_of(probing.output / "checkpoints/turned.safetensors")
    groups = {
        key.removesuffix(".comfy_quant"): json.loads(bytes(tensor.tolist())).get("convrot_groupsize", 1)
        for key, tensor in file.items()
        if key.endswith(".comfy_quant")
    }
    turned = {layer: group for layer, group in groups.items() if group > 1}
    assert 0 < len(turned) < len(groups)
    ours = probe(probing, "ours_turned", loaded("turned.safetensors"))
    on_disk = sum(tensor.nbytes for tensor in file.values())
    assert int(ours["unet.bytes"]) <= on_disk
    for layer, group in turned.items():
        whole = rotated(file[f"{layer}.weight"].float() * file[f"{layer}.weight_scale"], group)
        assert torch.equal(ours[f"{layer}.computed"], whole), layer
    if "convrot" not in (probing.comfyui / "comfy/ops.py").read_text(encoding="utf-8"):
        return  # older versions do not know integers at all
    original = probe(probing, "rotating_original", loaded(w.TINY))["unet.output"]
    error = {}
    for name in ("straight", "turned"):
        stock = {"loader": w.node("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")}
        error[name] = float((probe(probing, f"stock_{name}", stock)["unet.output"] - original).square().sum())
    assert error["turned"] < error["straight"]


def test_the_stock_loader_refuses_int8(probing: ComfyServer) -> None:
    """It would take the integers for weights, and draw noise."""
    flow = {"loader": w.node("CheckpointLoaderSimple", ckpt_name="int8.safetensors")}
    with pytest.raises(ExecutionError, match="hswq_int8: open this file with HSWQ Loader"):
        probing.run(flow | w.sampling(["loader", 0], ["loader", 1], ["loader", 2], "int8", steps=2))


def test_several_models_at_once_unloaded_and_loaded_again(probing: ComfyServer) -> None:
    flow: w.Workflow = {}
    for name in MODES:
        flow |= w.hswq_loaded(name, f"{name}.safetensors", steps=2)
    first = probing.run(flow)
    probing.unload(everything=True)
    probing.get("/system_stats")
    again = probing.run(flow)
    for name in MODES:
        images = [probing.images(outputs, f"{name}_image")[0].read_bytes() for outputs in (first, again)]
        assert images[0] == images[1]
    for name in MODES:
        assert_as_in_file(probe(probing, f"{name}_again", loaded(f"{name}.safetensors")), path_of(probing, name))


def test_no_hook_is_left_after_a_run_a_failure_or_a_cancel(probing: ComfyServer) -> None:
    def hooks(salt: int) -> int:
        flow = {"loader": w.node("HSWQLoader", ckpt_name=w.TINY)}
        flow["hooks"] = w.node("ProbeHooks", model=["loader", 0], salt=salt)
        return int(probing.run(flow)["hooks"]["text"][0])

    probing.run(w.calibrated("fine", session="hooks", loader="HSWQLoader"))
    assert hooks(1) == 0
    failing = w.calibrated("fails", session="hooks", seed=2, loader="HSWQLoader")
    failing["broken"] = w.node("ProbeFailingSampler", model=["calibrate", 0])
    failing["fails_sampler"]["inputs"]["model"] = ["broken", 0]
    before = (probing.output / "hswq/hooks.safetensors").read_bytes()
    with pytest.raises(ExecutionError, match="on purpose"):
        probing.run(failing)
    assert hooks(2) == 0
    with pytest.raises(ExecutionError, match="interrupted"):
        probing.run(
            w.calibrated("cancelled", session="hooks", seed=3, steps=400, loader="HSWQLoader"), interrupt_at_step=2
        )
    assert hooks(3) == 0
    assert (probing.output / "hswq/hooks.safetensors").read_bytes() == before


def test_the_tiny_model_itself_is_kept_to_the_bit(probing: ComfyServer) -> None:
    held = probe(probing, "tiny", loaded(w.TINY))
    file = {k: v for k, v in load_file(TINY_CHECKPOINT).items() if k.startswith("model.diffusion_model.")}
    assert all(torch.equal(held[k.removeprefix("model.diffusion_model.")], v) for k, v in file.items())
