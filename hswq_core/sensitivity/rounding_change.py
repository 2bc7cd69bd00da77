"""The difference that rounding makes to a layer, to measure its effect on the model."""

from __future__ import annotations

import torch

from ..formats import Form
from ..rounding.rotation import rotated, rounded_by_row
from ..rounding.weight import QuantizedWeight, scale_like
from .gradient import Change
from .model_calls import Effect


def rounding_change(rounded: QuantizedWeight, form: Form, *, is_nearest: bool) -> Change:
    """A function from a layer's weight to what rounding adds to it; or, where inputs are rounded, too, to the output.

    Args:
        is_nearest: whether the codes are the nearest ones. They are then found again from the weight, since a large
            model's codes take as many bytes as it has weights; others are kept in main memory.
    """
    scale = rounded.scale.cpu()
    codes = None if is_nearest else rounded.codes.cpu()

    def quantized(weight: torch.Tensor) -> torch.Tensor:
        against = scale_like(weight, scale.to(weight.device))
        found = form.grid.quantize(weight, against) if codes is None else codes.to(weight.device)
        return form.grid.dequantize(found, against)

    def change(weight: torch.Tensor) -> Effect:
        turned = weight if rounded.group == 1 else rotated(weight, rounded.group)
        stored = quantized(turned)
        if form.integer_product:
            return _integer_product(stored, stored - turned, rounded.group)
        return rotated(stored.sub_(turned), rounded.group)

    return change


def _integer_product(stored: torch.Tensor, change: torch.Tensor, group: int) -> Effect:
    """What a layer's output changes by when its weight and its inputs are rounded.

    Args:
        stored: the weight as it is multiplied, rotated; [C_out, C_in].
        change: what of it is due to rounding.
    """

    def effect(x: torch.Tensor) -> torch.Tensor:
        turned = rotated(x.flatten(0, -2), group)
        # Q(x) Q(W)^T - x W^T in two parts, each as small as the effect: in 16 bits a difference would lose it.
        lost = rounded_by_row(turned) - turned
        found = lost.to(x) @ stored.to(x).t() + turned.to(x) @ change.to(x).t()
        return found.unflatten(0, x.shape[:-1])

    return effect
