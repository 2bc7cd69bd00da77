"""Files of every mode for a card with dynamic VRAM (``tests/dynamic_pack``), and images drawn there."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hswq_core import inspect, quantize
from hswq_core.calibration.statistics import Statistics
from hswq_core.files.decode import decode_layer
from hswq_core.formats import FORMATS
from hswq_core.formats.refusal import is_refusal
from tests.support import workflows as w
from tests.support.probing import MODES, UNET, Tensors
from tests.support.server import TINY_CHECKPOINT, ComfyServer

LORA = "on_some_layers.safetensors"
BUDGETS = {"mixed": "45%", "comfy-mixed": "75%"}
ALL_MODES = (*MODES, *BUDGETS)
PLENTY = 100.0
"""How much room a card has, in sizes of the model."""
salts = itertools.count()


def write_modes(server: ComfyServer, statistics: Statistics) -> None:
    """A file of each mode, and beside it one of the same weights in float32."""
    statistics = _with_impacts(statistics)
    for mode in ALL_MODES:
        how: dict[str, Any] = (
            {"budget": BUDGETS[mode], "selection": "measured"} if mode in BUDGETS else {"keep_ratio": 0.1}
        )
        quantize(TINY_CHECKPOINT, path_of(server, mode), statistics, mode=mode, rotate=mode == "comfy-int8", **how)
        save_file(_exact(path_of(server, mode)), path_of(server, f"{mode}_exact"))


def _with_impacts(statistics: Statistics) -> Statistics:
    """Impacts by which a file of several forms has some layers in each."""
    for mode in BUDGETS:
        for number, form in enumerate(FORMATS[mode].forms):
            impacts = {name: 10.0 ** (-4 - number - place % 3) for place, name in enumerate(sorted(statistics.layers))}
            statistics = statistics.with_impacts(impacts, f"{form.name} nearest")
    return statistics


def _exact(path: Path) -> Tensors:
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
    salt, model = next(salts), [f"{name}_pages", 0]
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
