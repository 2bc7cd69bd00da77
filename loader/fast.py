"""``compute: fast``: Linear layers whose codes are multiplied as they are, with the input rounded to 8 bits, too.

All else is computed as exactly as ever, layer by layer: convolutions, layers that were not quantized or have a LoRA,
inputs that are not finite, and whatever the device's products do not take.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.model_management
import torch

from ..hswq_core.calibration import quantizable_layers
from ..hswq_core.inference.fp8_matmul import fits_fp8_matmul, fp8_linear
from ..hswq_core.inference.int8_linear import fits_int8_linear, int8_linear, int8_problem
from .compat import multiplies_fp8
from .ops import HSWQOperations
from .quantized_tensor import bits_of, codes_and_scale, group_of, is_quantized


class _FastLinear(HSWQOperations.Linear):
    """What the device can multiply is known when a model is loaded: a step asks for nothing that must be waited for."""

    has_int8 = has_fp8 = False

    def _fast(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        if not is_quantized(weight) or weight.device != x.device or (x.requires_grad and torch.is_grad_enabled()):
            return None
        codes, scale = codes_and_scale(weight)
        if self.has_int8 and fits_int8_linear(codes, scale, x.device):
            return int8_linear(x, codes, scale, bias, group_of(weight))
        return fp8_linear(x, codes, scale, bias) if self.has_fp8 and fits_fp8_matmul(codes, scale) else None


def fast_operations() -> type[HSWQOperations]:
    """Pass as ``custom_operations``: those for ComfyUI's device."""
    has_int8 = int8_problem(comfy.model_management.get_torch_device()) is None
    return operations_for(has_int8, multiplies_fp8())


@cache
def operations_for(has_int8: bool, has_fp8: bool) -> type[HSWQOperations]:
    """Those for a device that multiplies integers, FP8, or both."""
    linear = type("Linear", (_FastLinear,), {"has_int8": has_int8, "has_fp8": has_fp8})
    return type("FastOperations", (HSWQOperations,), {"Linear": linear})


@dataclass(frozen=True)
class FastLayers:
    """How a loaded model computes.

    Attributes:
        fast: how many of its layers are multiplied in 8 bits.
        exact: how many are not, by the reason.
    """

    fast: int
    exact: dict[str, int]

    def __str__(self) -> str:
        others = ", ".join(f"{count} {reason}" for reason, count in self.exact.items())
        return f"{self.fast} layers multiply in 8 bits; exact: {others or 'none'}"


def fast_layers(model: Any) -> FastLayers:
    """What a MODEL made with ``fast_operations`` does with each of its Linear layers and convolutions."""
    layers = quantizable_layers(model.model.diffusion_model)
    found = Counter(_why_exact(layer, torch.device(model.load_device)) for _, layer in layers)
    fast = found.pop("", 0)
    return FastLayers(fast, dict(found.most_common()))


def _why_exact(layer: Any, device: torch.device) -> str:
    """Why a layer is computed exactly; empty where it is not."""
    weight = layer.weight
    if not is_quantized(weight):
        return "not quantized"
    if weight.dim() != 2:
        return "convolutions"
    if bits_of(weight) < 8:
        return "in fewer than 8 bits"
    codes, scale = codes_and_scale(weight)
    if codes.dtype == torch.int8:
        if not fits_int8_linear(codes, scale, device):
            return "of odd sizes"
        return "" if getattr(layer, "has_int8", False) else "without integer products"
    if not getattr(layer, "has_fp8", False):
        return "in FP8, which this device does not multiply"
    return "" if fits_fp8_matmul(codes, scale) else "of odd sizes"
