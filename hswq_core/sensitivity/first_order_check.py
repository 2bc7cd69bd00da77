"""Checks gradients against the model's output: a wrong backward pass raises nothing and gives wrong numbers.

To first order the sum of <g, dW x> over all layers is <e, y_q - y>, the projection of the output's change when
all of them are changed, for every vector e. So one more call of the model checks every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .differentiable import NotDifferentiableError
from .layer_tap import LayerTap

_MAX_MISSED_SHARE = 0.3
"""Largest share of the effect that gradients may miss: terms of higher order, and choices, such as of an expert."""
_MAX_SILENT_EFFECT = 0.01
"""Largest allowed effect of layers without a gradient, relative to the median layer."""


@dataclass(frozen=True)
class Pass:
    """A backward pass: its vector e, [B, ...], and the sum of <g, dW x> over layers: [B], or [1] for all samples."""

    vector: torch.Tensor
    predicted: torch.Tensor


def sum_of_effects(taps: Sequence[LayerTap]) -> torch.Tensor:
    """The sum of <g, dW x> over the layers in the pass that is just done: of each sample, [B], or of all, [1]."""
    inner = [tap.inner[-1] for tap in taps if tap.inner is not None]
    if len({len(each) for each in inner}) > 1:
        inner = [each.sum().reshape(1) for each in inner]
    return torch.stack(inner).sum(0) if inner else torch.zeros(1)


class FirstOrderCheck:
    """Compares gradients with the output on some inputs, and judges all comparisons together."""

    def __init__(self, taps: Sequence[LayerTap]) -> None:
        self._taps = taps
        self._missed = self._moved = 0.0

    def compare(
        self,
        number: int,
        output: torch.Tensor,
        weights: torch.Tensor,
        passes: Sequence[Pass],
        changed: Callable[[Sequence[LayerTap]], torch.Tensor],
    ) -> None:
        """Args:
            number: of the batch of inputs.
            output: y, [B, ...].
            weights: of the samples, [B].
            passes: the backward passes from this output.
            changed: returns the output with some layers changed.

        Errors: NotDifferentiableError when layers without a gradient have an effect.
        """
        moved = changed(self._taps).float() - output
        for each in passes:
            product = moved * each.vector
            direct = product.flatten(1).sum(1) if len(each.predicted) == len(moved) else product.sum().reshape(1)
            self._missed += float((each.predicted.to(direct) - direct).square().sum())
        self._moved += float(moved.square().sum()) * len(passes)
        effects = {tap: tap.effects()[number] for tap in self._taps}
        silent = [tap for tap, effect in effects.items() if not effect]
        if silent:
            ranked = sorted(effects.values(), reverse=True)
            middle = ranked[(len(ranked) - len(silent)) // 2]
            alone = (changed(silent).float() - output).flatten(1).square().sum(1)
            if float((weights * alone / output.flatten(1).square().sum(1)).sum()) > _MAX_SILENT_EFFECT * middle:
                raise NotDifferentiableError("the gradient of a part of the model is cut off")

    def conclude(self) -> None:
        """Errors: NotDifferentiableError when gradients miss too much of the effect."""
        if not self._missed <= _MAX_MISSED_SHARE * self._moved:  # NaN, too: gradients that overflowed
            share = self._missed / self._moved if self._moved else float("inf")
            raise NotDifferentiableError(f"gradients are off by {share:.2g} times the effect that was measured")
