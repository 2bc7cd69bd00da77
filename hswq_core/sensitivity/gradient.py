"""Measured sensitivity of all layers at once, by gradients.

Rounding a layer's weight changes the model's output by J dW x, to first order, where J is the derivative of the
output by that layer's. For a random vector e ~ N(0, 1) the mean of <e, J dW x>^2 is |J dW x|^2, and <e, J dW x> =
<g, dW x> with g = J^T e, which one backward pass gives at every layer. So a pass measures all layers with as much
work as some forwards, where measuring one layer after another needs a forward for each.
Hutchinson's estimator; after Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..calibration.arguments import map_tensors
from ..calibration.model_inputs import ModelInput, samples_of, weights_of
from ..progress import Progress, no_progress
from .differentiable import NotDifferentiableError, differentiable, without_inference_mode
from .first_order_check import FirstOrderCheck, Pass, sum_of_effects
from .layer_tap import Change, LayerTap, WeightOf, own_weight
from .model_calls import batched, call, latent_size, not_called, on_device

VECTORS = 64
"""Random vectors in all, for inputs of two images: 128 estimates of each layer, and a standard error of an eighth."""
FEW_PROBES, FEW_VECTORS = 2, 8
"""An eighth of the vectors, one for each of eight inputs. With as many on four inputs, files had 1.1 to 1.25 times the
least error for their size, not 1.03."""
PREDICTING_PROBES, PREDICTING_VECTORS = 8, 32
"""Half of the vectors, on all inputs that were recorded, where the sum of the impacts is to predict an error: the last
step of an image may have most of it, and is one of few inputs."""
_SEED = 0x48535751
"""Not a seed that an image has: its noise comes from the same generator, and the output depends on that noise."""
RECOMPUTE_ABOVE = 1 << 15
"""Above this many elements of the latent, activations are recomputed instead of kept: for two changes of each layer.
With more, what they do is kept for fewer elements at once."""
KEPT_MEMORY = 2 << 30
"""Bytes that the activations of ``RECOMPUTE_ABOVE`` elements take in SDXL."""
_CHECKED_IMAGES = 8
"""On about how many images the gradients are checked against the model's output."""


class GradientMeter:
    """Measures layers on kept inputs by backward passes.

    Args:
        root: the diffusion model, ready to run.
        inputs: what to run it on.
        device: where it runs.
        options: more keyword arguments for every call.
        weight_of: returns a layer's weight.
        vectors: random vectors in all, for inputs of two images; fewer are faster and less steady.
        changes: how many changes of each layer are to be measured together.
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
        changes: int = 1,
        seed: int = _SEED,
    ) -> None:
        self._root, self._options, self._weight_of, self._device = root, options, weight_of, device
        self._kept = RECOMPUTE_ABOVE * 2 // max(2, changes)
        self._batches = batched(inputs, self._kept)
        self._images = sum(samples_of(batch) for batch in self._batches)
        self._weight = sum(float(weights_of(batch).sum()) for batch in self._batches)
        self.passes = max(len(self._batches), math.ceil(vectors * 2 * len(self._batches) / max(1, self._images)))
        self._random = torch.Generator().manual_seed(seed)

    def impacts(
        self, layers: Mapping[str, torch.nn.Module], changes: Mapping[str, Change], progress: Progress = no_progress
    ) -> dict[str, float]:
        """As ``impacts_of_each``, for one change of each layer."""
        found = self.impacts_of_each(layers, {name: [change] for name, change in changes.items()}, progress)
        return {name: impact for name, (impact,) in found.items()}

    def impacts_of_each(
        self,
        layers: Mapping[str, torch.nn.Module],
        changes: Mapping[str, Sequence[Change]],
        progress: Progress = no_progress,
    ) -> dict[str, list[float]]:
        """|y_q - y|^2 / |y|^2 by layer, the mean over the inputs, when its weight alone is changed, for each change.

        Args:
            layers: modules by name.
            changes: what roundings add to the weight of each, as many for all; the one with the least effect last.
            progress: called with passes done and in all; what it raises ends the measurement.

        Errors: NotDifferentiableError when the model has no backward pass, not enough memory for one, or one that
        contradicts what the model does when its layers are changed. StatisticsError for a layer whose module is not
        called on any input.
        """
        taps: dict[str, LayerTap] = {}
        recompute = max(latent_size(batch) for batch in self._batches) > self._kept
        seed = self._random.get_state()
        for in_place in (False, True):
            taps = {
                name: LayerTap(module, changes[name], self._weight_of, len(self._batches))
                for name, module in layers.items()
            }
            by_module = {module: taps[name] for name, module in layers.items()}
            try:
                with differentiable(self._root, by_module, recompute=recompute, in_place=in_place):
                    self._run(taps, progress)
                break
            except (RuntimeError, NotImplementedError, TypeError) as error:
                if in_place or isinstance(error, torch.cuda.OutOfMemoryError):
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    raise NotDifferentiableError(reason) from error
            self._random.set_state(seed)
        return {
            name: [sum(tap.effects(change)) / self._weight for change in range(len(changes[name]))]
            for name, tap in taps.items()
        }

    def _run(self, named: Mapping[str, LayerTap], progress: Progress) -> None:
        """Half of the passes are spread evenly over the inputs, the others in proportion to the effect found so far.

        The impact on images with little noise left is up to twenty times that on the others, and so is its variance.
        """
        taps = list(named.values())
        count, check = len(self._batches), FirstOrderCheck(taps)
        first = [max(1, self.passes // 2 // count)] * count if count > 1 else [self.passes]
        done = 0

        def run(vectors: Sequence[int], compared: Collection[int] = ()) -> None:
            nonlocal done
            for number, passes in enumerate(vectors):
                for _ in self._passes(number, passes, taps, check if number in compared else None):
                    done += 1
                    progress(min(done, self.passes), self.passes)

        progress(0, self.passes)
        compared = max(1, count * _CHECKED_IMAGES // max(self._images, _CHECKED_IMAGES))
        run(first, {(2 * i + 1) * count // (2 * compared) for i in range(compared)})
        for name, tap in named.items():  # all inputs have been run once
            if not tap.was_called:
                raise not_called(name)
        check.conclude()
        effects = [sum(tap.effects()[number] for tap in taps) for number in range(count)]
        share = (self.passes - sum(first)) / (sum(effects) or 1.0)
        run([round(effect * share) for effect in effects])
        progress(self.passes, self.passes)

    def _passes(
        self, number: int, passes: int, taps: Sequence[LayerTap], check: FirstOrderCheck | None
    ) -> Iterator[None]:
        """Backward passes from one batch of inputs, each with a random vector of its own."""
        if not passes:
            return
        entry = map_tensors(dict(on_device(self._device, self._batches[number])), without_inference_mode)
        output = call(self._root, entry, self._options)
        weights = weights_of(entry).to(output.device)
        energy = output.detach().float().flatten(1).square().sum(1)
        done: list[Pass] = []
        for each in range(passes):
            vector = torch.randn(output.shape, generator=self._random).to(output)
            for tap in taps:
                tap.begin(len(energy))
            output.backward(vector, retain_graph=each + 1 < passes)
            done.append(Pass(vector.float(), sum_of_effects(taps)))
            for tap in taps:
                tap.end(energy / weights)
            yield
        for tap in taps:
            tap.end_input(number, passes)
        if check is not None:
            check.compare(number, output.detach().float(), weights, done, lambda some: self._changed(entry, some))

    def _changed(self, entry: ModelInput, taps: Sequence[LayerTap]) -> torch.Tensor:
        """The output with these layers changed."""
        hooks = [tap.module.register_forward_hook(tap.add_effect, with_kwargs=True) for tap in taps]
        try:
            with torch.no_grad():
                return call(self._root, entry, self._options)
        finally:
            for hook in hooks:
                hook.remove()
