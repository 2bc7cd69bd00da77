"""Measured sensitivity of all layers at once, by gradients.

Rounding a layer's weight changes the model's output by J dW x, to first order, where J is the derivative of the
output by that layer's. For a random vector e ~ N(0, 1) the mean of <e, J dW x>^2 is |J dW x|^2, and <e, J dW x> =
<g, dW x> with g = J^T e, which one backward pass gives at every layer. So a pass measures all layers with as much
work as some forwards, where measuring one layer after another needs a forward for each.
Hutchinson's estimator; after Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

from ..calibration.arguments import map_tensors
from ..calibration.model_inputs import ModelInput, images_of
from ..progress import Progress, no_progress
from .differentiable import NotDifferentiableError, differentiable, ordinary
from .exact import ImpactMeter
from .model_calls import batched, call, latent_size, on_device, through

Change = Callable[[torch.Tensor], torch.Tensor]
"""Gives what rounding adds to a weight: dW, in float32, of the shape of the weight that it is given."""
WeightOf = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
"""Gives a layer's weight as it is computed with, in the type and on the device of a tensor."""

_INPUT_GRADIENTS = {3: conv1d_input, 4: conv2d_input, 5: conv3d_input}
VECTORS = 64
"""Random vectors in all, for inputs of two images: 128 estimates of each layer, and a standard error of an eighth."""
FEW_VECTORS = 16
"""A quarter of the time and twice the standard error: a file of one size has 1.1 times the error instead of 1.03."""
_KEEP = 1 << 15
"""Above this many elements of the latent, activations are computed twice instead of kept."""
KEPT_MEMORY = 2 << 30
"""What the activations of so many elements take in SDXL, bytes."""
_CHECKED = 8
"""On how many images, about, gradients are compared with the direct measurement of a few layers."""
_TOLERANCE = 5.0
"""A factor that chance alone does not reach: these few inputs give an impact within half of it."""


def own_weight(module: torch.nn.Module, like: torch.Tensor) -> torch.Tensor:
    """The weight that a plain torch layer holds."""
    weight: Any = module.weight
    return weight.detach().to(like)


class GradientMeter:
    """Measures layers on kept inputs by backward passes.

    Args:
        root: the diffusion model, ready to run.
        inputs: what to run it on.
        device: where it runs.
        options: more keyword arguments for every call.
        weight_of: how a layer's weight is had.
        vectors: random vectors in all, for inputs of two images; fewer are faster and less steady.
        seed: of the random vectors.
    """

    def __init__(
        self,
        root: torch.nn.Module,
        inputs: Sequence[ModelInput],
        device: torch.device,
        options: Mapping[str, Any],
        weight_of: WeightOf = own_weight,
        vectors: int = VECTORS,
        seed: int = 0,
    ) -> None:
        self._root, self._options, self._weight_of, self._device = root, options, weight_of, device
        self._batches = batched(inputs, _KEEP)
        self._images = sum(images_of(batch) for batch in self._batches)
        self.passes = max(len(self._batches), math.ceil(vectors * 2 * len(self._batches) / max(1, self._images)))
        self._random = torch.Generator().manual_seed(seed)

    def impacts(
        self, layers: Mapping[str, torch.nn.Module], changes: Mapping[str, Change], progress: Progress = no_progress
    ) -> dict[str, float]:
        """|y_q - y|^2 / |y|^2 by layer, the mean over the inputs, when its weight alone is changed.

        Args:
            layers: modules by name.
            changes: what rounding does to the weight of each.
            progress: called with passes done and in all; what it raises ends the measurement.

        Errors: NotDifferentiableError when the model has no backward pass, not enough memory for one, or one that
        contradicts what is measured directly on a few layers.
        """
        taps: dict[str, _LayerTap] = {}
        recompute = max(latent_size(batch) for batch in self._batches) > _KEEP
        seed = self._random.get_state()
        for in_place in (False, True):
            taps = {
                name: _LayerTap(module, changes[name], self._weight_of, len(self._batches))
                for name, module in layers.items()
            }
            by_module = {module: taps[name] for name, module in layers.items()}
            try:
                with differentiable(self._root, by_module, recompute=recompute, in_place=in_place):
                    self._run(list(taps.values()), progress)
                break
            except (RuntimeError, NotImplementedError, TypeError) as error:
                if in_place or isinstance(error, torch.cuda.OutOfMemoryError):
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    raise NotDifferentiableError(reason) from error
            self._random.set_state(seed)
        self._check(list(taps.values()))
        return {name: sum(tap.effects()) / self._images for name, tap in taps.items()}

    def _run(self, taps: Sequence[_LayerTap], progress: Progress) -> None:
        """Half of the passes go to all inputs alike, the others to where the first ones found the effect.

        The impact on images with little noise left is up to twenty times that on the others, and so is its variance.
        """
        count = len(self._batches)
        first = [max(1, self.passes // 2 // count)] * count
        done = 0

        def run(vectors: Sequence[int]) -> None:
            nonlocal done
            for number, passes in enumerate(vectors):
                for _ in self._passes(number, passes, taps):
                    done += 1
                    progress(min(done, self.passes), self.passes)

        progress(0, self.passes)
        run(first)
        effects = [sum(tap.effects()[number] for tap in taps) for number in range(count)]
        share = (self.passes - sum(first)) / (sum(effects) or 1.0)
        run([round(effect * share) for effect in effects])
        progress(self.passes, self.passes)

    def _passes(self, number: int, passes: int, taps: Sequence[_LayerTap]) -> Iterator[None]:
        """Backward passes from one batch of inputs, each with a random vector of its own."""
        if not passes:
            return
        entry = map_tensors(dict(on_device(self._device, self._batches[number])), ordinary)
        output = call(self._root, entry, self._options)
        energy = output.detach().float().flatten(1).square().sum(1)
        for each in range(passes):
            vector = torch.randn(output.shape, generator=self._random).to(output)
            for tap in taps:
                tap.begin(len(energy))
            output.backward(vector, retain_graph=each + 1 < passes)
            for tap in taps:
                tap.end(energy)
            yield
        for tap in taps:
            tap.end_input(number, passes)

    def _check(self, taps: Sequence[_LayerTap]) -> None:
        """Compare with what a few layers do when they alone are changed: a wrong backward pass gives no error."""
        count = max(1, len(self._batches) * _CHECKED // max(self._images, _CHECKED))
        chosen = [(2 * i + 1) * len(self._batches) // (2 * count) for i in range(count)]
        exact = ImpactMeter(self._root, [self._batches[i] for i in chosen], self._device, self._options)
        images = sum(images_of(self._batches[i]) for i in chosen)
        ranked = sorted(taps, key=lambda tap: -sum(tap.effects()))
        moved = [tap for tap in ranked if sum(tap.effects())]
        if not moved:
            raise NotDifferentiableError("no gradient reaches any layer")
        found: list[float] = []
        for tap in (moved[len(moved) * part // 8] for part in (1, 2, 4)):
            direct = exact.impact(tap.module, tap.change_alone()) * images
            found.append(sum(tap.effects()[i] for i in chosen) / max(direct, 1e-30))
        ratio = sorted(found)[len(found) // 2]
        if not 1 / _TOLERANCE < ratio < _TOLERANCE:
            raise NotDifferentiableError(f"gradients give {ratio:.2g} times the effect that was measured")
        # A layer without a gradient is one without an effect, or one that was cut off.
        middle = sum(moved[len(moved) // 2].effects()) / self._images
        without = ranked[len(moved) :]
        for tap in without[:: max(1, len(without) // 4)]:
            if exact.impact(tap.module, tap.change_alone()) > 0.01 * middle:
                raise NotDifferentiableError("the gradient of a part of the model is cut off")


class _LayerTap:
    """Sums <g, dW x> of one layer over its calls in a pass, and the squares of that over passes."""

    def __init__(self, module: torch.nn.Module, change: Change, weight_of: WeightOf, inputs: int) -> None:
        self.module, self._change, self._weight_of = module, change, weight_of
        self._inner: torch.Tensor | None = None
        self._samples = 1
        self._total = torch.zeros((), dtype=torch.float64)
        self._sums, self._passes = [0.0] * inputs, [0] * inputs

    def effects(self) -> list[float]:
        """|J dW x|^2 / |y|^2 by batch of inputs, summed over its images: the mean over the passes so far."""
        return [total / max(1, passes) for total, passes in zip(self._sums, self._passes, strict=True)]

    def begin(self, samples: int) -> None:
        self._inner, self._samples = None, samples

    def backward(
        self, x: torch.Tensor, gradient: torch.Tensor, memory: dict[str, torch.Tensor], *, onward: bool
    ) -> torch.Tensor | None:
        with torch.no_grad():
            weight = self._weight_of(self.module, x)
            if "effect" not in memory:
                memory["effect"] = through(self.module, x, self._change(weight)).float()
            product = memory["effect"] * gradient
            # Where the first dimension is not the samples (tiles, frames) their effects are added before squaring:
            # vectors of different samples are independent, so the mean of the square is the same.
            apart = len(product) % self._samples == 0
            inner = product.reshape(self._samples, -1).sum(1) if apart else product.sum().reshape(1)
            self._inner = inner if self._inner is None else self._inner + inner
            return _backward(self.module, gradient, weight, x) if onward else None

    def end(self, energy: torch.Tensor) -> None:
        """Args: energy: |y|^2 of each sample."""
        if self._inner is None:
            return  # no gradient leads here
        norms = energy if len(self._inner) == len(energy) else energy.mean().reshape(1)
        self._total = self._total + (self._inner.square() / norms).sum().double()

    def end_input(self, number: int, passes: int) -> None:
        """The device is read once for an input, and not in every pass."""
        self._sums[number] += float(self._total)
        self._passes[number] += passes
        self._total = torch.zeros((), dtype=torch.float64)

    def change_alone(self) -> torch.Tensor:
        weight: Any = self.module.weight
        return self._change(self._weight_of(self.module, weight))


def _backward(module: Any, gradient: torch.Tensor, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient at a layer's input."""
    if weight.dim() == 2:
        return gradient @ weight
    backward: Any = _INPUT_GRADIENTS[weight.dim()]
    return backward(x.shape, weight, gradient, module.stride, module.padding, module.dilation, module.groups)
