"""``compute: fast``: which layers are multiplied in 8 bits, how close that is, and that all else stays exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import DEFAULT
from tests.support import workflows as w
from tests.support.probing import Tensors, probe
from tests.support.server import ComfyServer

pytestmark = pytest.mark.parametrize("probing", ["default"], ids=[DEFAULT], indirect=True)
LAYER = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"


def fast(name: str, **more: Any) -> w.Workflow:
    return {"loader": w.node("HSWQLoader", ckpt_name=name, **{"compute": "fast", **more})}


def output(server: ComfyServer, name: str, loader: w.Workflow, model: list[Any] | None = None) -> torch.Tensor:
    return probe(server, name, loader, model)["unet.output"]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().sum() / expected.square().sum())


def badge(server: ComfyServer, flow: w.Workflow) -> dict[str, Any]:
    flow = {**flow, "text": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)}
    done = server.run(flow | w.sampling(["loader", 0], ["text", 1], ["text", 2], "told", steps=1))
    return done["loader"]["hswq_loaded"][0]


@pytest.mark.parametrize("mode", ["int8", "comfy-int8"])
def test_fast_is_close_to_exact_and_not_the_same(probing: ComfyServer, mode: str) -> None:
    file = f"{mode}.safetensors"
    exact = output(probing, f"exact_{mode}", fast(file, compute="exact"))
    found = output(probing, f"fast_{mode}", fast(file))
    assert 0 < distance(found, exact) < 1e-3
    assert "layers multiply in 8 bits" in probing.log


def test_the_badge_says_which_layers_are_fast_and_why_others_are_not(probing: ComfyServer) -> None:
    told = badge(probing, fast("int8.safetensors"))
    others = told["computing"]["exact"]
    assert told["computing"]["fast"] > 50
    assert set(others) <= {"convolutions", "not quantized"} and others["convolutions"] > 10
    assert told["computing"]["fast"] + sum(others.values()) == told["quantized_layers"] + told["other_layers"]
    told = badge(probing, fast("v2.safetensors"))["computing"]
    assert told["fast"] == 0 and told["exact"]["in FP8, which this device does not multiply"] > 50
    assert "computing" not in badge(probing, fast("int8.safetensors", compute="exact"))


def test_workflows_from_before_there_was_a_choice_go_on(probing: ComfyServer) -> None:
    found = output(probing, "fast_now", fast("int8.safetensors"))
    before = {"loader": w.node("HSWQLoader", ckpt_name="int8.safetensors", fp8_matmul=True)}
    assert torch.equal(output(probing, "fast_before", before), found)
    before["loader"]["inputs"]["fp8_matmul"] = False
    exact = output(probing, "exact_before", before)
    assert torch.equal(exact, output(probing, "exact_now", fast("int8.safetensors", compute="exact")))
    assert not torch.equal(exact, found)


def test_a_diffusion_model_of_its_own(probing: ComfyServer) -> None:
    flow = {"loader": w.node("HSWQDiffusionModelLoader", unet_name="v2_unet.safetensors", compute="fast")}
    exact = {"loader": w.node("HSWQDiffusionModelLoader", unet_name="v2_unet.safetensors")}
    assert torch.equal(output(probing, "unet_fast", flow), output(probing, "unet_exact", exact))


def test_layers_with_a_lora_are_exact(probing: ComfyServer) -> None:
    """A LoRA on every Linear layer leaves none to be multiplied in integers."""
    held = probe(probing, "for_lora", fast("int8.safetensors"))
    lora: Tensors = {}
    random = torch.Generator().manual_seed(0)
    for key, weight in held.items():
        if key.endswith(".weight") and weight.dtype == torch.int8 and weight.dim() == 2:
            name = f"diffusion_model.{key.removesuffix('.weight')}"
            lora[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], 2, generator=random) * 0.01
            lora[f"{name}.lora_down.weight"] = torch.randn(2, weight.shape[1], generator=random) * 0.01
    folder = probing.base / "models/loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora, folder / "every_linear.safetensors")
    probing.get("/object_info")
    found = {}
    for compute in ("exact", "fast"):
        flow = fast("int8.safetensors", compute=compute)
        flow["lora"] = w.node(
            "LoraLoaderModelOnly", model=["loader", 0], lora_name="every_linear.safetensors", strength_model=1.0
        )
        found[compute] = output(probing, f"lora_{compute}", flow, ["lora", 0])
    assert torch.equal(found["fast"], found["exact"])
    assert distance(found["exact"], output(probing, "no_lora", fast("int8.safetensors", compute="exact"))) > 1e-6


def test_comfy_int8_gives_the_numbers_of_the_stock_loader(probing: ComfyServer) -> None:
    if "int8_tensorwise" not in (probing.comfyui / "comfy/ops.py").read_text(encoding="utf-8"):
        return  # older versions read the integers as weights
    probing.run(w.straight_and_turned("fast_rotating", "fast_"))
    probing.get("/object_info")
    for name in ("fast_straight", "fast_turned"):
        file = f"{name}.safetensors"
        stock = output(probing, f"stock_{name}", {"loader": w.node("CheckpointLoaderSimple", ckpt_name=file)})
        found, exact = output(probing, name, fast(file)), output(probing, f"exact_{name}", fast(file, compute="exact"))
        assert distance(found, stock) ** 0.5 <= 1e-3, name
        assert distance(exact, stock) > 10 * distance(found, stock), name
