"""The impact of each layer's rounding on the output of a MODEL, measured on inputs kept while it was calibrated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management

from ..hswq_core.calibration.monitor import quantizable_layers
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import StatisticsError
from ..hswq_core.files.formats import Format
from ..hswq_core.options import Rounding
from ..hswq_core.progress import Progress
from ..hswq_core.quantize_layer import quantize_layer
from ..hswq_core.sensitivity.exact import ImpactMeter
from .weights import unpatched_weights


def measure_impacts(
    model: Any,
    statistics: Statistics,
    layers: list[str],
    *,
    form: Format,
    rounding: Rounding,
    probes: int,
    progress: Progress,
) -> Iterator[tuple[str, float]]:
    """Each layer with the relative squared error of the model's output when it alone is quantized.

    Args:
        layers: which to measure; in this order.
        form, rounding: how they would be quantized.
        probes: on how many of the recorded inputs, evenly spaced over the noise levels.
        progress: called with layers done and in all before each; what it raises ends the measurement.

    Errors: StatisticsError when no inputs were kept.
    """
    inputs = statistics.probes(probes)
    if not inputs:
        raise StatisticsError(
            "no inputs of the model were kept in these statistics", remedy="Calibrate once more with this version"
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
        result = quantize_layer(weight, statistics.layers[name], form, rounding)
        change = form.grid.dequantize(result.codes, result.scale.to(device)) - weight.float()
        yield name, meter.impact(modules[name], change)
    progress(len(layers), len(layers))
