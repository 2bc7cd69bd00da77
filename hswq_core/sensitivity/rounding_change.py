"""The difference that rounding makes to a layer, to measure its effect on the model."""

from __future__ import annotations

from collections.abc import Callable

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
        turned = _turned(weight, rounded.group)
        return _effect(quantized(turned), turned, rounded.group, form)

    return change


def stored_change(read: Callable[[torch.device], torch.Tensor], group: int, form: Form) -> Change:
    """The same for a layer that was written.

    Args:
        read: gives, on a device, what the stored codes and scales stand for, float32, rotated in groups as they are.
        group: how many columns are rotated together; 1 is none.
    """

    def change(weight: torch.Tensor) -> Effect:
        return _effect(read(weight.device), _turned(weight, group), group, form)

    return change


def _turned(weight: torch.Tensor, group: int) -> torch.Tensor:
    return weight if group == 1 else rotated(weight, group)


def _effect(stored: torch.Tensor, turned: torch.Tensor, group: int, form: Form) -> Effect:
    """Args: stored, turned: the weight as it is stored and as it was, both rotated."""
    if form.integer_product:
        return _integer_product(stored, stored - turned, group)
    return rotated(stored.sub_(turned), group)


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
