"""Text encoders are quantized by their weights alone, on request, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core import convert, quantize
from hswq_core.errors import CheckpointError, PlanError
from tests.core.conftest import PREFIX, Example

CLIP_L = "conditioner.embedders.0.transformer.text_model."
CLIP_G = "conditioner.embedders.1.model.transformer.resblocks.0."
QUANTIZED = (f"{CLIP_L}encoder.layers.0.mlp.fc1", f"{CLIP_G}mlp.c_fc")
KEPT = (
    f"{CLIP_L}embeddings.token_embedding.weight", f"{CLIP_L}final_layer_norm.weight", f"{CLIP_G}attn.in_proj_weight",
    "conditioner.embedders.0.transformer.text_projection.weight",
)  # fmt: skip


@pytest.fixture
def checkpoint(example: Example, tmp_path: Path) -> Path:
    tensors = load_file(example.path)
    del tensors["conditioner.embedders.0.weight"]
    tensors |= {f"{layer}.weight": torch.randn(64, 64).half() for layer in QUANTIZED}
    tensors |= {key: torch.randn(16) if "norm" in key else torch.randn(16, 8).half() for key in KEPT}
    path = tmp_path / "checkpoint.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy"])
def test_text_encoders_alone(checkpoint: Path, tmp_path: Path, mode: str) -> None:
    target = tmp_path / "out.safetensors"
    report = quantize(checkpoint, target, mode=mode, part="text_encoders")
    before, after = load_file(checkpoint), load_file(target)
    held = QUANTIZED[:1] if mode == "comfy" else QUANTIZED  # ComfyUI's own loaders would drop the other's scale
    assert report.quantized_layers == len(held)
    side = {"v1": (), "v2": ("scale",), "comfy": ("weight_scale", "comfy_quant")}[mode]
    assert after.keys() - before.keys() == {f"{layer}.{end}" for layer in held for end in side}
    for key, tensor in before.items():
        if key.removesuffix(".weight") in held:
            scale = {"v1": 1.0, "v2": after.get(f"{key[:-7]}.scale"), "comfy": after.get(f"{key}_scale")}[mode]
            found = after[key].float() * scale
            assert after[key].dtype == torch.float8_e4m3fn and torch.allclose(found, tensor.float(), atol=0.1, rtol=0.1)
        else:
            assert torch.equal(after[key], tensor), key


def test_all_of_a_checkpoint_and_back(checkpoint: Path, example: Example, tmp_path: Path) -> None:
    target, back = tmp_path / "all.safetensors", tmp_path / "back.safetensors"
    unet = quantize(checkpoint, tmp_path / "unet.safetensors", example.statistics, keep_ratio=0.1)
    both = quantize(checkpoint, target, example.statistics, keep_ratio=0.1, part="all")
    assert both.quantized_layers == unet.quantized_layers + 2 and both.bytes < unet.bytes
    codes = load_file(target)
    same = load_file(tmp_path / "unet.safetensors")
    assert all(torch.equal(codes[k].view(torch.uint8), v.view(torch.uint8)) for k, v in same.items() if PREFIX in k)
    convert(target, back, "fp16")
    tensors = load_file(back)
    assert tensors.keys() == load_file(checkpoint).keys()
    layer = QUANTIZED[1]
    assert torch.equal(tensors[f"{layer}.weight"], (codes[f"{layer}.weight"].float() * codes[f"{layer}.scale"]).half())


def test_v1_keeps_what_it_would_clip_in_whichever_part_is_asked_for_first(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    tensors[f"{QUANTIZED[0]}.weight"][3, 4] = 900
    save_file(tensors, checkpoint)
    quantize(checkpoint, tmp_path / "unet.safetensors", mode="v1", keep_ratio=0)
    for part in ("all", "text_encoders"):
        target = tmp_path / f"{part}.safetensors"
        quantize(checkpoint, target, mode="v1", keep_ratio=0, part=part)
        assert torch.equal(load_file(target)[f"{QUANTIZED[0]}.weight"], tensors[f"{QUANTIZED[0]}.weight"])


def test_a_text_encoder_in_a_file_of_its_own(tmp_path: Path) -> None:
    tensors = {
        "shared.weight": torch.randn(9, 8).half(),
        "encoder.block.0.layer.0.SelfAttention.q.weight": torch.randn(8, 8).half(),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": torch.randn(4, 8).half(),
    }
    save_file(tensors, tmp_path / "t5.safetensors")
    report = quantize(tmp_path / "t5.safetensors", tmp_path / "out.safetensors", mode="comfy", part="text_encoders")
    assert report.quantized_layers == 1
    assert load_file(tmp_path / "out.safetensors")["shared.weight"].dtype == torch.float16


def test_what_cannot_be_done_is_said(example: Example, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="int8"):
        quantize(example.path, tmp_path / "out.safetensors", mode="int8", part="all")
    tensors = {key: tensor for key, tensor in load_file(example.path).items() if key.startswith(PREFIX)}
    save_file(tensors, tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match="no text encoder"):
        quantize(tmp_path / "unet.safetensors", tmp_path / "out.safetensors", mode="v1", part="all", keep_ratio=0)
