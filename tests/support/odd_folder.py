"""A folder as users have it: copies of one model, another of the same kind, LoRAs, and workflows over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support import workflows as w
from tests.support.probing import UNET
from tests.support.server import TINY_CHECKPOINT, ComfyServer

CALIBRATED = "(the calibrated model)"
OTHER = "other.safetensors"


def fill(server: ComfyServer) -> None:
    """Put copies that differ beside the UNet, another model, a UNet alone and LoRAs beside the tiny checkpoint."""
    tensors = load_file(TINY_CHECKPOINT)
    text = next(key for key in tensors if not key.startswith(UNET) and tensors[key].is_floating_point())
    copy = tensors | {text: tensors[text] * 1.5}
    for name in ("a_copy", "b_copy"):
        save_file(copy, server.checkpoints / f"{name}.safetensors")
    generator = torch.Generator().manual_seed(0)
    shaken = {
        key: tensor * 1.02 + torch.randn(tensor.shape, generator=generator).to(tensor.dtype) * 1e-3
        if key.startswith(UNET)
        else tensor
        for key, tensor in tensors.items()
    }
    save_file(shaken, server.checkpoints / OTHER)
    save_file(
        {key: tensor for key, tensor in tensors.items() if key.startswith(UNET)},
        server.checkpoints / "alone.safetensors",
    )
    loras = server.base / "models/loras"
    loras.mkdir(parents=True, exist_ok=True)
    layer = "middle_block.1.proj_in"
    out, channels = tensors[f"{UNET}{layer}.weight"].shape[:2]
    for name, value in (("fine", 0.01), ("broken", float("nan"))):
        up, down = torch.full((out, 2), 0.01), torch.full((2, channels), 0.01)
        up[0, 0] = value
        key = "lora_unet_" + layer.replace(".", "_")
        lora = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(2.0)}
        save_file(lora, loras / f"{name}.safetensors")
    server.get("/object_info")


def calibrating(name: str, session: str, checkpoint: str = w.TINY, **options: Any) -> w.Workflow:
    flow = w.calibrated(name, session=session, steps=3, **options)
    flow["loader"]["inputs"]["ckpt_name"] = checkpoint
    return flow


def quantized(name: str, session: str, filename: str, source: str = CALIBRATED, **options: Any) -> w.Workflow:
    flow = calibrating(name, session, **options)
    flow |= w.quantize(["calibrate", 1], [f"{name}_sampler", 0], source=source, filename=filename, overwrite=True)
    flow["path"] = w.node("PreviewAny", source=["quantize", 0])
    return flow


def written(outputs: dict[str, Any]) -> Path:
    return Path(outputs["path"]["text"][0])


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()
