"""The impact of each layer's rounding on the output of a MODEL, measured on inputs kept while it was calibrated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch

from ..hswq_core.calibration.arguments import tensors_of
from ..hswq_core.calibration.model_inputs import LATENT, OPTIONS, TOO_LARGE, not_recorded
from ..hswq_core.calibration.monitor import quantizable_layers
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.devices import sent
from ..hswq_core.errors import StatisticsError
from ..hswq_core.log import get_logger
from ..hswq_core.options import Method, Purpose
from ..hswq_core.progress import Progress
from ..hswq_core.quantize_layer import distribution_of, quantize_layer, weight_problem
from ..hswq_core.rounding.where import rounding_device
from ..hswq_core.sensitivity.differentiable import NotDifferentiableError
from ..hswq_core.sensitivity.exact import ImpactMeter
from ..hswq_core.sensitivity.gradient import KEPT_MEMORY, VECTORS, GradientMeter
from ..hswq_core.sensitivity.layer_tap import Change
from ..hswq_core.sensitivity.model_calls import MAX_BATCH_ELEMENTS, latent_size
from ..hswq_core.sensitivity.rounding_change import RoundingChange, rounding_change
from .as_written import as_written
from .compat import differentiable_attention, differentiable_operations, weight_in_use
from .weights import patched_weights

logger = get_logger(__name__)


def measure_impacts(
    model: Any,
    statistics: Statistics,
    layers: list[str],
    *,
    purposes: Sequence[Purpose],
    probes: int,
    method: Method,
    progress: Progress,
    vectors: int = VECTORS,
) -> Iterator[tuple[str, dict[str, float]]]:
    """Each layer with the relative squared error of the model's output when it alone is quantized, by purpose.

    Of the purposes, those whose form can hold the layer.

    Args:
        layers: which to measure; in this order.
        purposes: how they would be quantized, each in another form or rounding; the one with the least effect last.
        probes: on how many of the recorded inputs, evenly spaced over the noise levels. ``gradient`` takes four times
            as many, which costs it nothing: it has fewer vectors for each.
        method: ``gradient`` measures all layers together, and one after another where the model cannot be
            differentiated.
        progress: called with the amount done and in all; what it raises ends the measurement.
        vectors: of ``gradient``.

    Errors: StatisticsError when no inputs were kept, or not all that the model was called with; when the model cannot
    be called on them, or does not call a layer; and when a weight cannot be rounded.
    """
    with ready_to_call(model, statistics, method) as (root, options):
        modules: dict[str, Any] = dict(quantizable_layers(root))
        shapes = {name: tuple(modules[name].weight.shape) for name in layers}
        held = {name: [each for each in purposes if each.form.holds(name, shapes[name])] for name in layers}
        chosen = {name: modules[name] for name in layers if held[name]}
        weight_of, device = patched_weights(model), torch.device(model.load_device)
        rounded_on = rounding_device(device)

        def changes_for(name: str) -> Iterator[tuple[Purpose, RoundingChange]]:
            measured = statistics.layers[name]
            weight = sent(weight_of(name).detach(), rounded_on)
            distribution = distribution_of(weight, measured)
            for purpose in held[name]:
                try:
                    rounded = quantize_layer(weight, measured, purpose.form, purpose.rounding, distribution)
                except ValueError as problem:
                    raise weight_problem(name, problem, statistics.source or "the MODEL") from None
                if rounded.fallback:
                    logger.warning("HSWQ: layer %s is measured as rounded to nearest: %s", name, rounded.fallback)
                yield purpose, rounding_change(rounded, purpose.form, is_nearest=rounded.gain is None)

        if method == "gradient":
            try:

                def changes_of(name: str) -> list[Change]:
                    found = [change for _, change in changes_for(name)]
                    # The last one is compared with the output when all layers are changed at once, and where a layer
                    # before has changed, inputs are rounded otherwise.
                    return [*found, found[-1].of_weight] if held[name][-1].form.integer_product else [*found]

                count = len(purposes)
                found = _by_gradient(model, statistics, chosen, changes_of, count, 4 * probes, vectors, progress)
                for name, each in found.items():
                    yield name, {str(purpose): impact for purpose, impact in zip(held[name], each, strict=False)}
                return
            except NotDifferentiableError as error:
                logger.warning("HSWQ: sensitivity is measured one layer after another: %s", error)
        meter = ImpactMeter(root, statistics.probes(probes), device, options)
        meter.check_called(chosen)
        for number, (name, module) in enumerate(chosen.items()):
            progress(number, len(chosen))
            weight = sent(weight_of(name).detach(), device)
            yield name, {str(p): meter.impact(module, change(weight)) for p, change in changes_for(name)}
        progress(len(chosen), len(chosen))


@contextmanager
def ready_to_call(
    model: Any, statistics: Statistics, method: Method
) -> Iterator[tuple[torch.nn.Module, dict[str, Any]]]:
    """A MODEL's diffusion model, loaded, and the options to call it with on recorded inputs.

    Errors: StatisticsError when no inputs were kept, or not all that the model was called with, and when a call fails.
    """
    _check_inputs(statistics)
    with _clear_errors(), as_written():
        comfy.model_management.load_models_gpu([model], memory_required=_memory_required(model, statistics, method))
        yield model.model.diffusion_model, {OPTIONS: own_options(model)}


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn errors of a model, or of a layer's arithmetic, into a StatisticsError that says what to do.

    OutOfMemoryError is passed on: ComfyUI frees memory and reports it.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except (ArithmeticError, AttributeError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StatisticsError(
            f"the model could not be called on the inputs that were kept ({type(error).__name__}: {reason})",
            remedy="Choose the selection variance or error, which need no calls; if the model was changed since the "
            "calibration, calibrate once more",
        ) from error


def _by_gradient(
    model: Any,
    statistics: Statistics,
    layers: dict[str, torch.nn.Module],
    changes_of: Callable[[str], list[Change]],
    count: int,
    probes: int,
    vectors: int,
    progress: Progress,
) -> dict[str, list[float]]:
    meter = GradientMeter(
        model.model.diffusion_model,
        statistics.probes(probes),
        model.load_device,
        {OPTIONS: own_options(model) | differentiable_attention()},
        weight_in_use,
        vectors,
        count,
    )
    whole = len(layers) + meter.passes
    changes = {}
    for number, name in enumerate(layers):
        progress(number, whole)
        changes[name] = changes_of(name)
    with differentiable_operations():
        return meter.impacts_of_each(layers, changes, lambda done, _passes: progress(len(layers) + done, whole))


def _memory_required(model: Any, statistics: Statistics, method: Method) -> int:
    """Bytes of the calls, as ComfyUI estimates them, and of the activations that gradients keep."""
    largest = max(statistics.inputs, key=latent_size)
    together = max(1, min(len(statistics.inputs), MAX_BATCH_ELEMENTS // latent_size(largest)))
    shapes = [tensor.shape for tensor in tensors_of(largest[LATENT])]
    calls = max(int(model.memory_required([shape[0] * together, *shape[1:]])) for shape in shapes)
    return calls + KEPT_MEMORY if method == "gradient" else calls


def _check_inputs(statistics: Statistics) -> None:
    if not statistics.inputs:
        raise StatisticsError(
            "no inputs of the model were kept in these statistics", remedy="Calibrate once more with this version"
        )
    for name, kind in {k: v for entry in statistics.inputs for k, v in not_recorded(entry).items()}.items():
        if name not in TOO_LARGE:
            raise StatisticsError(
                f"the model is called with {name} ({kind}), which cannot be kept and given to it again",
                remedy="Choose another selection; variance and error need no calls of the model",
            )
        logger.warning("HSWQ: sensitivity is measured without %s, which is too large to keep", kind)


def own_options(model: Any) -> dict[str, Any]:
    """A MODEL's options that act inside a call. Wrappers and callbacks act around calls, and are left out."""
    options = model.model_options.get(OPTIONS, {})
    return {name: value for name, value in options.items() if name not in ("wrappers", "callbacks")}
