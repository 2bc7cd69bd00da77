"""Measures one layer in the backward passes that measure sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from ..calibration.arguments import layer_input
from ..sums import WideSum
from .model_calls import Effect, apply_change

Change = Callable[[torch.Tensor], Effect]
"""Returns what rounding changes, given the layer's weight: dW, in float32, or what it adds to the layer's output."""
WeightOf = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
"""Returns a layer's weight as the layer uses it, in the type and on the device of a tensor."""

_INPUT_GRADIENTS = {3: conv1d_input, 4: conv2d_input, 5: conv3d_input}


def own_weight(module: torch.nn.Module, like: torch.Tensor) -> torch.Tensor:
    """The weight that a plain torch layer holds."""
    weight: Any = module.weight
    return weight.detach().to(like)


class LayerTap:
    """Sums <g, dW x> of one layer over its calls in a pass, and the squares of that over passes, for some changes dW.

    Args:
        changes: each returns dW, what one rounding adds to the weight. The last one, which is to be the smallest, is
            what the gradients are checked with.
        weight_of: returns the layer's weight.
        inputs: how many batches of inputs there are.
    """

    def __init__(self, module: torch.nn.Module, changes: Sequence[Change], weight_of: WeightOf, inputs: int) -> None:
        self.module, self._changes, self._weight_of = module, changes, weight_of
        self.inner: torch.Tensor | None = (
            None  # <g, dW x> by change, of each sample, [C, B], or of all together, [C, 1]
        )
        self.was_called = False
        self._samples = 1
        self._total: WideSum | None = None  # of the passes from one input, on the device
        self._sums, self._passes = [torch.zeros(len(changes), dtype=torch.float64)] * inputs, [0] * inputs

    def effects(self, change: int = -1) -> list[float]:
        """|J dW x|^2 / |y|^2 by batch of inputs, the weighted sum over its images: the mean over the passes so far."""
        return [float(sums[change]) / max(1, passes) for sums, passes in zip(self._sums, self._passes, strict=True)]

    def called(self) -> None:
        self.was_called = True

    def begin(self, samples: int) -> None:
        self.inner, self._samples = None, samples

    def backward(
        self, x: torch.Tensor, gradient: torch.Tensor, memory: dict[str, torch.Tensor], *, onward: bool
    ) -> torch.Tensor | None:
        with torch.no_grad():
            weight = self._weight_of(self.module, x)
            found = []
            for number, change in enumerate(self._changes):
                name = f"effect {number}"
                if name not in memory:
                    # In 16 bits, as activations are: there is one for every change, and the range is float32's.
                    memory[name] = apply_change(self.module, x, change(weight)).bfloat16()
                product = memory[name].float() * gradient
                # Where the first dimension is not the samples (tiles, frames) their effects are added before squaring:
                # vectors of different samples are independent, so the mean of the square is the same.
                apart = len(product) % self._samples == 0
                found.append(product.reshape(self._samples, -1).sum(1) if apart else product.sum().reshape(1))
            inner = torch.stack(found)
            self.inner = inner if self.inner is None else self.inner + inner
            return _backward(self.module, gradient, weight, x) if onward else None

    def end(self, energy: torch.Tensor) -> None:
        """Args: energy: |y|^2 of each sample, over the sample's weight."""
        if self.inner is None:
            return  # no gradient leads here
        norms = energy if self.inner.shape[1] == len(energy) else energy.mean().reshape(1)
        squares = (self.inner.square() / norms).sum(1)
        if self._total is None:
            self._total = WideSum(tuple(squares.shape), squares.device)
        self._total.add(squares)

    def end_input(self, number: int, passes: int) -> None:
        """The device is read once for an input, and not in every pass."""
        if self._total is not None:
            self._sums[number] = self._sums[number] + self._total.double()
        self._passes[number] += passes
        self._total = None

    def add_effect(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        """As a forward hook with keywords: the layer's output with the last change."""
        x = layer_input(args, kwargs)
        return output + apply_change(module, x, self._changes[-1](self._weight_of(module, x)))


def _backward(module: Any, gradient: torch.Tensor, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient at a layer's input."""
    if weight.dim() == 2:
        return gradient @ weight
    backward: Any = _INPUT_GRADIENTS[weight.dim()]
    return backward(x.shape, weight, gradient, module.stride, module.padding, module.dilation, module.groups)
