"""The kinds of quantized layers that there are, by whoever writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Product = Literal["fp8", "int8", "nvfp4", "mxfp8", "int4", ""]
"""What codes can be multiplied in as they are, by a reader and a card that can; empty where no reader does."""


@dataclass(frozen=True)
class Kind:
    """How a layer is stored.

    Attributes:
        name: for JSON; that of the format in ``L.comfy_quant`` where there is one.
        label: for people.
        family: who reads it: "fp8", "hswq", "comfy", "bitsandbytes", "llm.int8", "nunchaku", "torchao", "quanto",
            "gguf", "llm", or "unknown".
        product: see ``Product``.
    """

    name: str
    label: str
    family: str
    product: Product = ""


FP8 = Kind("fp8", "FP8 E4M3 without scales", "fp8", "fp8")
FP8_E5M2 = Kind("fp8_e5m2", "FP8 E5M2 without scales", "fp8")
V2 = Kind("v2", "FP8 with .scale", "hswq", "fp8")
SCALED_FP8 = Kind("scaled_fp8", "FP8 with .scale_weight", "fp8", "fp8")
WEIGHT_SCALE_FP8 = Kind("fp8_weight_scale", "FP8 with .weight_scale, no description", "fp8", "fp8")
COMFY_FP8 = Kind("float8_e4m3fn", "FP8 E4M3 of ComfyUI", "comfy", "fp8")
COMFY_E5M2 = Kind("float8_e5m2", "FP8 E5M2 of ComfyUI", "comfy")
MXFP8 = Kind("mxfp8", "MXFP8 of ComfyUI", "comfy", "mxfp8")
NVFP4 = Kind("nvfp4", "NVFP4 of ComfyUI", "comfy", "nvfp4")
INT8_TENSORWISE = Kind("int8_tensorwise", "INT8 of ComfyUI", "comfy", "int8")
W4A4 = Kind("convrot_w4a4", "INT4 of ComfyUI (W4A4)", "comfy", "int4")
W4A8 = Kind("asym_w4a8_int8", "INT4 of ComfyUI (W4A8)", "comfy", "int8")
INT8 = Kind("int8", "INT8 of HSWQ", "hswq", "int8")
HSWQ_PACKED = {f"hswq_int{bits}": Kind(f"hswq_int{bits}", f"INT{bits} of HSWQ", "hswq") for bits in (2, 3, 4, 5, 6)}
BNB_NF4 = Kind("bnb_nf4", "NF4 of bitsandbytes", "bitsandbytes")
BNB_FP4 = Kind("bnb_fp4", "FP4 of bitsandbytes", "bitsandbytes")
BNB_INT8 = Kind("bnb_int8", "INT8 of bitsandbytes", "llm.int8", "int8")
SVDQUANT_INT4 = Kind("svdquant_int4", "SVDQuant INT4 of Nunchaku", "nunchaku", "int4")
SVDQUANT_NVFP4 = Kind("svdquant_nvfp4", "SVDQuant NVFP4 of Nunchaku", "nunchaku", "nvfp4")
NUNCHAKU_AWQ = Kind("nunchaku_awq", "AWQ W4A16 of Nunchaku", "nunchaku")
TORCHAO_FP8 = Kind("torchao_float8", "FP8 of torchao", "torchao", "fp8")
TORCHAO_INT8 = Kind("torchao_int8", "INT8 of torchao", "torchao", "int8")
QUANTO_FP8 = Kind("quanto_float8", "FP8 of optimum-quanto", "quanto")
QUANTO_INT8 = Kind("quanto_int8", "INT8 of optimum-quanto", "quanto")
QUANTO_INT4 = Kind("quanto_int4", "INT4 of optimum-quanto", "quanto")
GPTQ = Kind("gptq", "GPTQ or AutoAWQ INT4", "llm")

DESCRIBED = {
    kind.name: kind
    for kind in (COMFY_FP8, COMFY_E5M2, MXFP8, NVFP4, INT8_TENSORWISE, W4A4, W4A8, *HSWQ_PACKED.values())
}
"""What ``L.comfy_quant`` may name."""


def unknown(name: str) -> Kind:
    """A kind that is not known, by what it calls itself, or by the type and the neighbours of its codes."""
    return Kind("unknown", f"unknown ({name})", "unknown")


def gguf(name: str) -> Kind:
    """A kind of GGUF, by its name there: Q4_K."""
    return Kind(f"gguf_{name.lower()}", f"GGUF {name}", "gguf")
