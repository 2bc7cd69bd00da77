"""A LoRA for the tiny model."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file

from tests.support.probing import UNET
from tests.support.server import TINY_CHECKPOINT, ComfyServer


def write_lora(server: ComfyServer, file: str) -> None:
    """A LoRA on every third layer of the UNet, convolutions and biases among them."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    weights = [(k, t) for k, t in load_file(TINY_CHECKPOINT).items() if k.startswith(UNET) and k.endswith(".weight")]
    for key, weight in [(k, t) for k, t in weights if t.dim() in (2, 4)][::3]:
        name = "lora_unet_" + key.removeprefix(UNET).removesuffix(".weight").replace(".", "_")
        down = torch.randn(2, *weight.shape[1:], generator=generator) * 0.02
        up = torch.randn(weight.shape[0], 2, *[1] * (weight.dim() - 2), generator=generator) * 0.02
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        tensors[f"{name}.diff_b"] = torch.randn(weight.shape[0], generator=generator) * 0.01
    folder = server.base / "models/loras"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / file)
    server.get("/object_info")
