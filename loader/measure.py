"""The effect of each layer's rounding on the output of a MODEL, measured on inputs kept while it was calibrated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management

from ..hswq_core.calibration.impact import ImpactMeter
from ..hswq_core.calibration.monitor import quantizable_layers
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import StatisticsError
from ..hswq_core.fp8.grid import dequantize
from ..hswq_core.fp8.weight import quantize_weight
from .sampling import unpatched_weights


def measure_impacts(
    model: Any,
    statistics: Statistics,
    layers: list[str],
    *,
    scaled: bool,
    rounding: str,
    probes: int,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[str, float]]:
    """Each layer with the relative squared error of the model's output when it alone is quantized.

    Args:
        layers: which to measure; in this order.
        scaled, rounding: how they would be quantized.
        probes: on how many of the kept inputs, spread over the noise levels.
        progress: called with layers done and in all before each; what it raises ends the measurement.

    Errors: StatisticsError when no inputs were kept.
    """
    inputs = statistics.probes(probes)
    if not inputs:
        raise StatisticsError(
            "no inputs of the model were kept in these statistics", do="Calibrate once more with this version"
        )
    comfy.model_management.load_models_gpu([model])
    unet = model.model.diffusion_model
    device = model.load_device
    meter = ImpactMeter(unet, inputs, device, {"transformer_options": {}})
    modules = dict(quantizable_layers(unet))
    weight_of = unpatched_weights(model)
    for number, name in enumerate(layers):
        progress(number, len(layers))
        weight = weight_of(name).detach().to(device)
        result = quantize_weight(weight, statistics.layers[name], scaled=scaled, rounding=rounding)
        change = dequantize(result.codes, result.scale.to(device)) - weight.float()
        yield name, meter.impact(modules[name], change)
    progress(len(layers), len(layers))
