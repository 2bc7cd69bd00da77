"""Layers as tools beside ComfyUI store them, by the documented layout of each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.core.doctor_files import FP8, Tensors, bytes_of, largest, to_fp8

NF4 = torch.tensor([
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
])  # fmt: skip


def bnb_nf4(name: str, weight: torch.Tensor) -> Tensors:
    blocks = weight.float().reshape(-1, 64)
    absmax = blocks.abs().amax(1)
    codes = ((blocks / absmax[:, None])[:, :, None] - NF4).abs().argmin(2).flatten().to(torch.uint8)
    codes = ((codes[0::2] << 4) | codes[1::2])[:, None]
    said = bytes_of(quant_type="nf4", blocksize=64, dtype="float16", shape=list(weight.shape))
    state = {"absmax": absmax, "quant_map": NF4.clone(), "quant_state.bitsandbytes__nf4": said}
    return {f"{name}.weight": codes, **{f"{name}.weight.{part}": value for part, value in state.items()}}


def bnb_int8(name: str, weight: torch.Tensor) -> Tensors:
    absmax = largest(weight, by_row=True)
    return {f"{name}.weight": (weight.float() / absmax * 127).round().to(torch.int8), f"{name}.SCB": absmax.flatten()}


def svdquant(in_floats: bool) -> Callable[[str, torch.Tensor], Tensors]:
    def change(name: str, weight: torch.Tensor) -> Tensors:
        rows, columns = weight.shape
        group, dtype = (16, FP8) if in_floats else (64, torch.bfloat16)
        return {
            f"{name}.qweight": torch.zeros(rows, columns // 2, dtype=torch.int8),
            f"{name}.wscales": torch.ones(columns // group, rows).to(dtype),
            f"{name}.proj_down": torch.zeros(columns, 32, dtype=torch.bfloat16),
            f"{name}.proj_up": torch.zeros(rows, 32, dtype=torch.bfloat16),
            f"{name}.smooth_factor": torch.ones(columns, dtype=torch.bfloat16),
        }

    return change


def torchao(name: str, weight: torch.Tensor) -> Tensors:
    scale = largest(weight, by_row=True) / 448
    return {f"{name}._weight_qdata": to_fp8(weight, scale), f"{name}._weight_scale": scale}


def quanto(name: str, weight: torch.Tensor) -> Tensors:
    scale = largest(weight, by_row=True) / 127
    return {f"{name}.weight._data": (weight.float() / scale).round().to(torch.int8), f"{name}.weight._scale": scale}


def quanto_int4(name: str, weight: torch.Tensor) -> Tensors:
    low, high = weight.float().amin(1, keepdim=True), weight.float().amax(1, keepdim=True)
    scale = (high - low) / 15
    codes = ((weight.float() - low) / scale).round().clamp(0, 15).to(torch.uint8)
    half = len(codes) // 2
    packed = codes[:half] | (codes[half:] << 4)
    return {f"{name}.weight._data._data": packed, f"{name}.weight._scale": scale, f"{name}.weight._shift": -low}


def gptq(name: str, weight: torch.Tensor) -> Tensors:
    rows, columns = weight.shape
    return {
        f"{name}.qweight": torch.zeros(columns // 8, rows, dtype=torch.int32),
        f"{name}.qzeros": torch.zeros(columns // 64, rows // 8, dtype=torch.int32),
        f"{name}.scales": torch.ones(columns // 64, rows).half(),
    }
