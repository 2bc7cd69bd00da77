"""The types of tensors in safetensors files, and what torch calls them."""

from __future__ import annotations

import math

import torch

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
TORCH_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
# What only newer versions of torch have, and no layer of ours: it passes through.
TORCH_DTYPES |= {
    name: dtype
    for name, attribute in (
        ("U16", "uint16"), ("U32", "uint32"), ("U64", "uint64"), ("C64", "complex64"), ("F8_E8M0", "float8_e8m0fnu"),
        ("F8_E4M3FNUZ", "float8_e4m3fnuz"), ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
    )
    if (dtype := getattr(torch, attribute, None)) is not None
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def nbytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * BITS[dtype] // 8


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes in safetensors order (row-major, little-endian)."""
    flat = tensor.detach().cpu().contiguous().flatten()
    # One element counts as contiguous whatever its stride is, and views ask for a stride of one.
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy().tobytes()


def dtype_name(dtype: torch.dtype) -> str:
    return _NAMES[dtype]


def is_float(dtype: str) -> bool:
    """Whether a safetensors type is a float of 16 bits or more, which can be quantized."""
    return dtype in ("F16", "BF16", "F32", "F64")
