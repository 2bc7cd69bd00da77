"""The difference that rounding makes to a layer, to measure its effect on the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..formats import Form
from ..rounding.rotation import rotated, rounded_by_row
from ..rounding.weight import QuantizedWeight, scale_like
from .model_calls import Effect


def rounding_change(rounded: QuantizedWeight, form: Form, *, is_nearest: bool) -> RoundingChange:
    """What rounding changes in a layer.

    Args:
        is_nearest: whether the codes are the nearest ones. They are then found again from the weight, since a large
            model's codes take as many bytes as it has weights; others are kept in main memory.
    """
    codes = None if is_nearest else rounded.codes.cpu()
    return RoundingChange(form, rounded.scale.cpu(), codes, rounded.group, form.integer_product)


@dataclass(frozen=True)
class RoundingChange:
    """A function from a layer's weight to what rounding adds to it, or to the output where inputs are rounded, too."""

    form: Form
    scale: torch.Tensor
    codes: torch.Tensor | None
    group: int
    rounds_inputs: bool

    @property
    def of_weight(self) -> RoundingChange:
        """The same with inputs as they are."""
        return replace(self, rounds_inputs=False)

    def __call__(self, weight: torch.Tensor) -> Effect:
        turned = weight if self.group == 1 else rotated(weight, self.group)
        against, grid = scale_like(turned, self.scale.to(weight.device)), self.form.grid
        codes = grid.quantize(turned, against) if self.codes is None else self.codes.to(weight.device)
        stored = grid.dequantize(codes, against)
        if self.rounds_inputs:
            return _IntegerProduct(stored, stored - turned, self.group)
        return rotated(stored.sub_(turned), self.group)


@dataclass(frozen=True)
class _IntegerProduct:
    """What a layer's output changes by when its weight and its inputs are rounded.

    Attributes:
        stored: the weight as it is multiplied, rotated; [C_out, C_in].
        change: what of it is due to rounding.
        group: how many columns are rotated together.
    """

    stored: torch.Tensor
    change: torch.Tensor
    group: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        turned = rotated(x.flatten(0, -2), self.group)
        # Q(x) Q(W)^T - x W^T in two parts, each as small as the effect: in 16 bits a difference would lose it.
        lost = rounded_by_row(turned) - turned
        found = lost.to(x) @ self.stored.to(x).t() + turned.to(x) @ self.change.to(x).t()
        return found.unflatten(0, x.shape[:-1])
