"""What HSWQLoader puts in memory: FP8 codes with exact scales, and everything else bit for bit as in the file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import workflows as w
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer, ExecutionError

FP8 = torch.float8_e4m3fn
UNET = "model.diffusion_model."
PROBE = REPOSITORY / "tests" / "probe_pack"


@pytest.fixture(scope="module", params=["default", "fp8-storage"])
def probing(
    request: pytest.FixtureRequest, comfyui: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with the probe pack; once with ComfyUI told to store every diffusion model in FP8."""
    arguments = ("--fp8_e4m3fn-unet",) if request.param == "fp8-storage" else ()
    with ComfyServer(comfyui, tmp_path_factory.mktemp(request.param), arguments, packs=(PROBE,)) as server:
        flow = w.calibrated("cal", session="loader", steps=3, loader="HSWQLoader")
        for mode in ("v1", "v2", "comfy"):
            flow[f"q_{mode}"] = w.quantize(["calibrate", 1], ["cal_sampler", 0], mode=mode, filename=mode)["quantize"]
        server.run(flow)
        written = load_file(server.output / "checkpoints/v2.safetensors")
        spelled = {k.replace(".scale", ".weight.scale"): v for k, v in written.items()}
        save_file(spelled, server.checkpoints / "v2_other_spelling.safetensors")
        save_file(_per_channel(), server.checkpoints / "per_channel.safetensors")
        unet = {k.removeprefix(UNET): v for k, v in written.items() if k.startswith(UNET)}
        save_file(unet, server.base / "models/diffusion_models/v2_unet.safetensors")
        server.get("/object_info")
        yield server


def _per_channel() -> dict[str, torch.Tensor]:
    """Every Linear and Conv2d with a scale of its own for each output channel."""
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(TINY_CHECKPOINT).items():
        if key.startswith(UNET) and key.endswith(".weight") and tensor.dim() > 1:
            scale = (tensor.float().flatten(1).abs().amax(1) / 448).clamp(min=1e-12)
            tensors[key.removesuffix("weight") + "scale"] = scale
            scale = scale.view(-1, *[1] * (tensor.dim() - 1))
            tensor = (tensor.float() / scale).clamp(-448, 448).to(FP8)
        tensors[key] = tensor
    return tensors


def probe(server: ComfyServer, name: str, loader: dict[str, object]) -> dict[str, torch.Tensor]:
    """The weights of a loaded model, after it has been sampled with."""
    flow = {"loader": loader, "text": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)}
    flow |= w.sampling(["loader", 0], ["text", 1], ["text", 2], name, steps=2)
    flow["probe"] = w.node("ProbeWeights", model=["loader", 0], name=name, after=[f"{name}_sampler", 0])
    server.run(flow)
    return load_file(server.output / f"{name}.probe")


def unet_of(path: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(path)
    return {k.removeprefix(UNET): v for k, v in tensors.items() if k.startswith(UNET)} or tensors


def assert_as_in_file(held: dict[str, torch.Tensor], path: Path) -> None:
    file = unet_of(path)
    quantized = 0
    for key, stored in file.items():
        if not key.endswith((".weight", ".bias")):
            continue
        layer = key.rpartition(".")[0]
        assert held[key].dtype == stored.dtype, key
        assert torch.equal(held[key].view(torch.uint8), stored.view(torch.uint8)), key
        if stored.dtype != FP8:
            if key.endswith(".weight"):
                assert torch.equal(held[f"{layer}.computed"], stored.float()), key
            continue
        quantized += 1
        scale = next(
            (file[layer + s] for s in (".scale", ".weight.scale", ".weight_scale") if layer + s in file), torch.ones(1)
        )
        scale = scale.view(-1, *[1] * (stored.dim() - 1)) if scale.numel() > 1 else scale
        assert torch.equal(held[f"{layer}.computed"], stored.float() * scale), key
    assert quantized > 50


@pytest.mark.parametrize("name", ["v1", "v2", "comfy", "v2_other_spelling", "per_channel"])
def test_every_weight_is_as_in_the_file(probing: ComfyServer, name: str) -> None:
    held = probe(probing, name, w.node("HSWQLoader", ckpt_name=f"{name}.safetensors"))
    folder = (
        probing.output / "checkpoints"
        if (probing.output / f"checkpoints/{name}.safetensors").exists()
        else probing.checkpoints
    )
    assert_as_in_file(held, folder / f"{name}.safetensors")
    assert "HSWQ:" in probing.log and f"{name}.safetensors" in probing.log


def test_a_diffusion_model_of_its_own(probing: ComfyServer) -> None:
    held = probe(probing, "bare", w.node("HSWQDiffusionModelLoader", unet_name="v2_unet.safetensors"))
    assert_as_in_file(held, probing.base / "models/diffusion_models/v2_unet.safetensors")


def test_an_unquantized_checkpoint(probing: ComfyServer) -> None:
    held = probe(probing, "fp16", w.node("HSWQLoader", ckpt_name=w.TINY))
    file = unet_of(TINY_CHECKPOINT)
    assert all(torch.equal(held[k], v) for k, v in file.items() if k.endswith((".weight", ".bias")))


def test_the_stock_loader_damages_kept_layers_where_ours_keeps_them(probing: ComfyServer) -> None:
    stock = probe(probing, "stock", w.node("CheckpointLoaderSimple", ckpt_name="v1.safetensors"))
    file = unet_of(probing.output / "checkpoints/v1.safetensors")
    kept = [k for k, t in file.items() if k.endswith(".weight") and t.dtype != FP8]
    damaged = [k for k in kept if not torch.equal(stock[f"{k.removesuffix('.weight')}.computed"], file[k].float())]
    if "--fp8_e4m3fn-unet" in probing.arguments:
        assert len(damaged) > len(kept) / 2
        with pytest.raises(ExecutionError, match="held in FP8 already"):
            probing.run(w.calibrated("fp8", session="fp8"))
    else:
        assert not damaged  # a CPU has no FP8 arithmetic, so here ComfyUI does not choose FP8 by itself


def test_the_stock_loader_opens_the_comfy_format_where_it_knows_it(probing: ComfyServer) -> None:
    held = probe(probing, "stock_comfy", w.node("CheckpointLoaderSimple", ckpt_name="comfy.safetensors"))
    file = unet_of(probing.output / "checkpoints/comfy.safetensors")
    knows = "comfy_quant" in (probing.comfyui / "comfy/ops.py").read_text(encoding="utf-8")
    for key in [k for k, t in file.items() if k.endswith(".weight") and t.dtype == FP8]:
        layer = key.removesuffix(".weight")
        exact = file[key].float() * file[f"{layer}.weight_scale"]
        computed = held[f"{layer}.computed"]
        assert knows == bool((computed - exact).norm() <= 1e-3 * exact.norm()), layer


def test_a_lora_is_added_to_the_real_weights_and_leaves_no_trace(probing: ComfyServer) -> None:
    file = unet_of(probing.output / "checkpoints/v2.safetensors")
    generator = torch.Generator().manual_seed(0)
    lora, deltas = {}, {}
    for key, stored in file.items():
        if key.endswith(".weight") and stored.dtype == FP8:
            layer, (rows, columns) = key.removesuffix(".weight"), (stored.shape[0], stored[0].numel())
            up = torch.randn(rows, 2, generator=generator) * 0.02
            down = torch.randn(2, columns, generator=generator) * 0.02
            name = "lora_unet_" + layer.replace(".", "_")
            if stored.dim() == 4:
                down, up = down.view(2, *stored.shape[1:]), up.view(rows, 2, 1, 1)
            lora |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
            deltas[layer] = (up.flatten(1) @ down.flatten(1)).view(stored.shape)
    (probing.base / "models/loras").mkdir(exist_ok=True)
    save_file(lora, probing.base / "models/loras/test.safetensors")
    probing.get("/object_info")

    flow = {"hswq": w.node("HSWQLoader", ckpt_name="v2.safetensors")}
    flow["lora"] = w.node("LoraLoaderModelOnly", model=["hswq", 0], lora_name="test.safetensors", strength_model=1.0)
    flow |= w.sampling(["lora", 0], ["hswq", 1], ["hswq", 2], "with_lora", steps=2)
    flow["probe"] = w.node("ProbeWeights", model=["lora", 0], name="with_lora", after=["with_lora_sampler", 0])
    probing.run(flow)
    held = load_file(probing.output / "with_lora.probe")
    for layer, delta in deltas.items():
        expected = file[f"{layer}.weight"].float() * file[f"{layer}.scale"] + delta
        error = (held[f"{layer}.computed"] - expected).abs().max()
        assert error <= 2.0**-10 * expected.abs().max(), layer

    flow = {"hswq": w.node("HSWQLoader", ckpt_name="v2.safetensors")}
    flow |= w.sampling(["hswq", 0], ["hswq", 1], ["hswq", 2], "without", steps=2, seed=2)
    flow["probe"] = w.node("ProbeWeights", model=["hswq", 0], name="without", after=["without_sampler", 0])
    probing.run(flow)
    assert_as_in_file(load_file(probing.output / "without.probe"), probing.output / "checkpoints/v2.safetensors")


def test_a_saved_v2_model_opens_again_as_v2(probing: ComfyServer) -> None:
    flow = {"hswq": w.node("HSWQLoader", ckpt_name="v2.safetensors")}
    flow["save"] = w.node(
        "CheckpointSave", model=["hswq", 0], clip=["hswq", 1], vae=["hswq", 2], filename_prefix="checkpoints/saved"
    )
    probing.run(flow)
    saved = next((probing.output / "checkpoints").glob("saved*.safetensors"))
    before, after = unet_of(probing.output / "checkpoints/v2.safetensors"), unet_of(saved)
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype, key
        assert after[key].shape == tensor.shape and torch.equal(after[key].float(), tensor.float()), key
    probing.get("/object_info")
    held = probe(probing, "saved", w.node("HSWQLoader", ckpt_name=saved.name))
    assert_as_in_file(held, saved)


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
