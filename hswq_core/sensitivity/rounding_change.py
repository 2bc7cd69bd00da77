"""The difference that rounding makes to a layer, to measure its effect on the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..devices import sent
from ..formats import Form
from ..rounding.rotation import rotated, rounded_by_row
from ..rounding.weight import QuantizedWeight, scale_like
from .model_calls import Effect


def rounding_change(rounded: QuantizedWeight, form: Form, *, is_nearest: bool) -> RoundingChange:
    """The change from a layer's weight to its rounded one.

    Args:
        is_nearest: whether the codes are the nearest ones. They are then found again from the weight, since a large
            model's codes take as many bytes as its file; others are kept in main memory, as a file has them.
    """
    scale, grid = rounded.scale, form.grid
    kept = None if is_nearest else form.encode(rounded.codes).cpu()

    def stored(turned: torch.Tensor) -> torch.Tensor:
        nonlocal scale
        if kept is not None:
            codes = form.decode(sent(kept, turned.device), tuple(turned.shape))
            return grid.dequantize(codes, scale_like(turned, scale.to(turned.device)))
        scale = scale.to(turned.device)  # and there it stays: sent each time, the host would wait for the device
        against = scale_like(turned, scale)
        return grid.nearest_values(turned / against).mul_(against)

    return RoundingChange(stored, rounded.group, form.integer_product)


def stored_change(read: Callable[[torch.device], torch.Tensor], group: int, form: Form) -> RoundingChange:
    """The same for a layer that was written.

    Args:
        read: gives, on a device, what the stored codes and scales stand for, float32, rotated in groups as they are.
        group: how many columns are rotated together; 1 is none.
    """
    return RoundingChange(lambda turned: read(turned.device), group, form.integer_product)


@dataclass(frozen=True)
class RoundingChange:
    """A function from a layer's weight to what rounding adds to it, or to the output where inputs are rounded, too.

    Attributes:
        stored: gives the weight as it is stored, of the weight as it was, both float32 and rotated.
        group: how many columns are rotated together; 1 is none.
        rounds_inputs: whether the layer's inputs are rounded by row, too.
    """

    stored: Callable[[torch.Tensor], torch.Tensor]
    group: int
    rounds_inputs: bool

    @property
    def of_weight(self) -> RoundingChange:
        """The same with inputs as they are."""
        return replace(self, rounds_inputs=False)

    def __call__(self, weight: torch.Tensor) -> Effect:
        turned = weight if self.group == 1 else rotated(weight, self.group)
        stored = self.stored(turned)
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
