"""What the probe pack tells of a MODEL, and the kinds of files a loader meets, made from one V2 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hswq_core.formats.refusal import is_refusal
from tests.support import workflows as w
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer

FP8 = torch.float8_e4m3fn
CODES = (FP8, torch.int8)
UNET = "model.diffusion_model."
PROBE = REPOSITORY / "tests" / "probe_pack"
MODES = ("v1", "v2", "comfy", "int8", "comfy-int8")
SCALES = (".scale", ".weight.scale", ".weight_scale", ".scale_weight")
Tensors = dict[str, torch.Tensor]


def probe(
    server: ComfyServer, name: str, loader: w.Workflow, model: list[Any] | None = None, **options: Any
) -> Tensors:
    """The weights of a model as held and as computed with, after it has been sampled with, and its UNet's output.

    Args:
        loader: nodes among which ``loader`` opens the file.
        model: the MODEL to look into, of the loader itself if not given.
    """
    model = model or ["loader", 0]
    flow = {**loader, "text": w.node("CheckpointLoaderSimple", ckpt_name=w.TINY)}
    flow |= w.sampling(model, ["text", 1], ["text", 2], name, steps=2)
    flow["probe"] = w.node("ProbeWeights", model=model, name=name, after=[f"{name}_sampler", 0], **options)
    (server.output / f"{name}.probe").unlink(missing_ok=True)
    server.run(flow)
    return load_file(server.output / f"{name}.probe")


def loaded(name: str) -> w.Workflow:
    return {"loader": w.node("HSWQLoader", ckpt_name=name)}


def unet_of(path: Path) -> Tensors:
    """The diffusion model's own tensors, without those that speak to other loaders."""
    tensors = {key: tensor for key, tensor in load_file(path).items() if not is_refusal(key, tuple(tensor.shape))}
    return {k.removeprefix(UNET): v for k, v in tensors.items() if k.startswith(UNET)} or tensors


def scale_of(tensors: Tensors, layer: str, weight: torch.Tensor) -> torch.Tensor:
    scale = next((tensors[layer + s] for s in SCALES if layer + s in tensors), torch.ones(1)).float()
    return scale.view(-1, *[1] * (weight.dim() - 1)) if scale.numel() > 1 else scale.reshape(())


def exact(tensors: Tensors) -> Tensors:
    """The same model in float32 with every scale multiplied in: what a loader's model is to compute like."""
    done: Tensors = {}
    for key, tensor in tensors.items():
        layer = key.removesuffix(".weight")
        if not key.startswith(UNET):
            done[key] = tensor
        elif tensor.dtype == torch.uint8 or key == f"{UNET}scaled_fp8" or key.endswith(SCALES):
            continue
        elif key != layer and tensor.element_size() == 1:
            done[key] = tensor.float() * scale_of(tensors, layer, tensor)
        else:
            done[key] = tensor.float()
    return done


def kinds_of_files(v2: Tensors) -> dict[str, Tensors]:
    """Checkpoints as other tools write them."""
    source = load_file(TINY_CHECKPOINT)
    renamed = lambda suffix: {k.replace(".scale", suffix): v for k, v in v2.items()}  # noqa: E731
    marker = {f"{UNET}scaled_fp8": torch.zeros(0, dtype=FP8)}
    unet = {k: v for k, v in source.items() if k.startswith(UNET)}
    half = {k: v.bfloat16() if k.startswith(UNET) and v.dtype == torch.float16 else v for k, v in v2.items()}
    return {
        "spelled": renamed(".weight.scale"),
        "scaled_fp8": renamed(".scale_weight") | marker,
        "scalar": {k: v.reshape(()) if k.endswith(".scale") else v for k, v in v2.items()},
        "per_channel": _per_channel(source),
        "naive": source | {k: v.to(FP8) for k, v in unet.items()},
        "e5m2": source | {k: v.to(torch.float8_e5m2) for k, v in unet.items() if k.endswith(".weight") and v.dim() > 1},
        "bfloat16": half,
        "fp16": source,
    }


def write_kinds(server: ComfyServer, v2: Path) -> None:
    """Every kind of file, each with its exact model beside it, into the server's folder of checkpoints."""
    files = kinds_of_files(load_file(v2)) | {m: load_file(v2.with_stem(m)) for m in MODES}
    for name, tensors in files.items():
        if name not in MODES:
            save_file(tensors, server.checkpoints / f"{name}.safetensors")
        save_file(exact(tensors), server.checkpoints / f"{name}_exact.safetensors")


def _per_channel(source: Tensors) -> Tensors:
    """Every Linear and Conv2d with a scale of its own for each output channel."""
    tensors: Tensors = {}
    for key, tensor in source.items():
        if key.startswith(UNET) and key.endswith(".weight") and tensor.dim() > 1:
            scale = (tensor.float().flatten(1).abs().amax(1) / 448).clamp(min=1e-12)
            tensors[key.removesuffix("weight") + "scale"] = scale
            scale = scale.view(-1, *[1] * (tensor.dim() - 1))
            tensor = (tensor.float() / scale).clamp(-448, 448).to(FP8)
        tensors[key] = tensor
    return tensors
