"""Files as every tool leaves them, by the documented layout of each, from one small model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from hswq_core import quantize
from hswq_core.formats.comfy_mixed import nvfp4_tensors
from hswq_core.formats.nvfp4 import pack_floats, swizzled
from hswq_core.formats.packing import pack
from hswq_core.formats.refusal import refusing_tensors
from hswq_core.grids import E2M1, E4M3
from hswq_core.rounding.rotation import rotated

Tensors = dict[str, torch.Tensor]
UNET, TEXT, VAE = "model.diffusion_model.", "conditioner.embedders.0.transformer.text_model.", "first_stage_model."
FP8 = torch.float8_e4m3fn


def original() -> Tensors:
    """A model with eight Linear layers, two convolutions, a text encoder and a VAE, FP16."""
    random = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> torch.Tensor:
        fan_in = torch.Size(shape[1:]).numel()
        return (torch.randn(*shape, generator=random) / fan_in**0.5).half()

    tensors = {
        f"{UNET}input_blocks.0.0.weight": weight(64, 4, 3, 3),
        f"{UNET}input_blocks.0.0.bias": weight(64, 1).flatten(),
        f"{UNET}input_blocks.2.0.in_layers.0.weight": torch.ones(64).half(),
        f"{UNET}output_blocks.0.0.weight": weight(64, 64, 3, 3),
        f"{UNET}label_emb.0.0.weight": weight(64, 128),
        f"{TEXT}encoder.layers.0.mlp.fc1.weight": weight(64, 64),
        f"{VAE}decoder.conv_in.weight": weight(8, 4, 3, 3),
    }
    for block in range(2):
        for name in ("attn1.to_q", "attn1.to_out.0", "ff.net.2"):
            tensors[f"{UNET}input_blocks.{block + 1}.1.transformer_blocks.0.{name}.weight"] = weight(64, 256)
    return tensors


def unet_layers(tensors: Tensors, *, convolutions: bool = False) -> list[str]:
    """Names without ``.weight`` of those in blocks that are quantized."""
    return [
        key.removesuffix(".weight")
        for key, value in tensors.items()
        if key.startswith(UNET) and ".weight" in key and (value.dim() == 2 or (convolutions and value.dim() == 4))
    ]


def bytes_of(**said: object) -> torch.Tensor:
    """JSON as ComfyUI and bitsandbytes have it in files."""
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def to_fp8(weight: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    return (weight.float() / scale).clamp(-448, 448).to(FP8)


def largest(weight: torch.Tensor, by_row: bool = False) -> torch.Tensor:
    found = weight.float().abs()
    return found.flatten(1).amax(1, keepdim=True) if by_row else found.max()


def each(
    change: Callable[[str, torch.Tensor], Tensors], *, convolutions: bool = False, model: Tensors | None = None
) -> Tensors:
    """The model with every layer replaced by what ``change`` makes of its name and weight."""
    tensors = original() if model is None else dict(model)
    for name in unet_layers(tensors, convolutions=convolutions):
        weight = tensors.pop(f"{name}.weight")
        tensors |= change(name, weight)
    return tensors


def scaled(suffix: str, by_row: bool = False, **described: object) -> Callable[[str, torch.Tensor], Tensors]:
    """FP8 by the largest weight."""

    def change(name: str, weight: torch.Tensor) -> Tensors:
        scale = largest(weight, by_row) / 448
        column = scale.reshape(-1, *[1] * (weight.dim() - 1)) if by_row else scale
        found = {f"{name}.weight": to_fp8(weight, column), f"{name}{suffix}": scale}
        return found | ({f"{name}.comfy_quant": bytes_of(**described)} if described else {})

    return change


def plain(name: str, weight: torch.Tensor) -> Tensors:
    return {f"{name}.weight": to_fp8(weight)}


def e5m2(name: str, weight: torch.Tensor) -> Tensors:
    return {f"{name}.weight": weight.to(torch.float8_e5m2)}


def flat_scales(name: str, weight: torch.Tensor) -> Tensors:
    found = scaled(".weight_scale", by_row=True, format="float8_e4m3fn")(name, weight)
    return {**found, f"{name}.weight_scale": found[f"{name}.weight_scale"].flatten()}


def scaled_e5m2(name: str, weight: torch.Tensor) -> Tensors:
    scale = largest(weight) / 57344
    return {f"{name}.weight": (weight.float() / scale).to(torch.float8_e5m2), f"{name}.scale_weight": scale}


def comfy_fp8(name: str, weight: torch.Tensor) -> Tensors:
    return scaled(".weight_scale", format="float8_e4m3fn", full_precision_matrix_mult=True)(name, weight)


def integers(described: dict[str, object] | None, group: int = 1) -> Callable[[str, torch.Tensor], Tensors]:
    def change(name: str, weight: torch.Tensor) -> Tensors:
        turned = rotated(weight, group)
        scale = largest(turned, by_row=True) / 127
        column = scale.reshape(-1, *[1] * (weight.dim() - 1))
        found = {f"{name}.weight": (turned / column).round().to(torch.int8), f"{name}.weight_scale": scale}
        return found | ({f"{name}.comfy_quant": bytes_of(**described)} if described is not None else {})

    return change


def nvfp4(name: str, weight: torch.Tensor) -> Tensors:
    factor = float(largest(weight) / (6 * 448))
    scales = E4M3.nearest(weight.float().unflatten(1, (-1, 16)).abs().amax(2) / 6 / factor)
    units = (scales.float() * factor).repeat_interleave(16, 1)
    codes = E2M1.nearest_values(weight.float() / units)
    return {f"{name}.weight": pack_floats(codes), **nvfp4_tensors(name, scales, factor)}


def nvfp4_fast(name: str, weight: torch.Tensor) -> Tensors:
    return nvfp4(name, weight) | {f"{name}.comfy_quant": bytes_of(format="nvfp4")}


def hswq_int4(name: str, weight: torch.Tensor) -> Tensors:
    groups = weight.float().unflatten(1, (-1, 64))
    scale = (groups.abs().amax(2) / 7).half()
    codes = (groups / scale.float()[:, :, None]).round().clamp(-7, 7).flatten(1).to(torch.int8)
    said = bytes_of(format="hswq_int4", group_size=64, shape=list(weight.shape))
    return {f"{name}.weight": pack(codes, 4), f"{name}.weight_scale": scale, f"{name}.comfy_quant": said}


def mxfp8_bytes(name: str, weight: torch.Tensor) -> Tensors:
    blocks = weight.float().unflatten(1, (-1, 32))
    powers = (blocks.abs().amax(2) / 448).log2().ceil()
    codes = (blocks / torch.pow(2.0, powers)[:, :, None]).flatten(1).to(FP8)
    scale = swizzled((powers + 127).to(torch.uint8))
    return {f"{name}.weight": codes, f"{name}.weight_scale": scale, f"{name}.comfy_quant": bytes_of(format="mxfp8")}


def mxfp8(name: str, weight: torch.Tensor) -> Tensors:
    """With scales of their own type, where torch has it."""
    found, scale = mxfp8_bytes(name, weight), f"{name}.weight_scale"
    return {**found, scale: found[scale].view(getattr(torch, "float8_e8m0fnu", torch.uint8))}


def nibbles(numbers: torch.Tensor) -> torch.Tensor:
    """Numbers from 0 to 15, two to a byte, the low one first."""
    found = numbers.to(torch.uint8)
    return (found[:, 0::2] | (found[:, 1::2] << 4)).view(torch.int8)


def w4a4(name: str, weight: torch.Tensor) -> Tensors:
    turned = rotated(weight, 64)
    scale = largest(turned, by_row=True) / 7
    codes = (turned / scale).round().clamp(-7, 7).long() & 15
    said = bytes_of(format="convrot_w4a4", convrot_groupsize=64)
    return {f"{name}.weight": nibbles(codes), f"{name}.weight_scale": scale.flatten(), f"{name}.comfy_quant": said}


def w4a8(name: str, weight: torch.Tensor) -> Tensors:
    turned = rotated(weight, 64)
    own = largest(turned, by_row=True) / 127
    relative = ((turned / own).unflatten(1, (-1, 16)).abs().amax(2) / 7).to(FP8)
    codes = ((turned / own).unflatten(1, (-1, 16)) / relative.float()[:, :, None]).flatten(1).round().clamp(-8, 7) + 8
    return {
        f"{name}.weight": nibbles(codes),
        f"{name}.weight_s_rel": relative,
        f"{name}.weight_s_channel": own.flatten(),
        f"{name}.comfy_quant": bytes_of(format="asym_w4a8_int8", group_size=16, convrot_groupsize=64),
    }


def blockwise(name: str, weight: torch.Tensor) -> Tensors:
    scale = torch.ones(weight.shape[0] // 16, weight.shape[1] // 16)
    said = bytes_of(format="float8_e4m3fn_blockwise", group_size=16)
    return {f"{name}.weight": to_fp8(weight), f"{name}.weight_scale": scale, f"{name}.comfy_quant": said}


def save(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None, name: str = "file") -> Path:
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
    return path


def ours(folder: Path, mode: str, **options: object) -> Path:
    """What HSWQ itself writes."""
    source, target = save(folder, original(), name="original"), folder / f"{mode}.safetensors"
    quantize(source, target, mode=mode, keep_ratio=0.0, **options)
    return target


MARK = {f"{UNET}scaled_fp8": torch.zeros(2, dtype=FP8)}
FAST_MARK = {f"{UNET}scaled_fp8": torch.zeros(0, dtype=FP8)}
E5M2_MARK = {f"{UNET}scaled_fp8": torch.zeros(2, dtype=torch.float8_e5m2)}
HEADER = {
    "_quantization_metadata": json.dumps({
        "format_version": "1.0",
        "layers": {name.removeprefix(UNET): {"format": "float8_e4m3fn"} for name in unet_layers(original())},
    })
}  # fmt: skip
REFUSING = {f"{UNET}{name}": value for name, value in refusing_tensors("hswq_int8").items()}
