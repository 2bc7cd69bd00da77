"""The error of a written file on the inputs that were recorded: all its layers changed at once.

Impacts add up to the error of a file only as far as the effects of layers do not meet. This is the look at the end.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..hswq_core.calibration.monitor import quantizable_layers
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.devices import sent
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.decode import decode_layer
from ..hswq_core.files.layers import WEIGHT
from ..hswq_core.planning import LayerPlan, QuantizationPlan
from ..hswq_core.progress import Progress
from ..hswq_core.sensitivity.exact import ImpactMeter, OutputErrors
from ..hswq_core.sensitivity.layer_tap import Change
from ..hswq_core.sensitivity.rounding_change import stored_change
from .compat import weight_in_use
from .impact import ready_to_call

_INPUTS = 16


def errors_of_file(
    model: Any, statistics: Statistics, plan: QuantizationPlan, file: Path, progress: Progress
) -> OutputErrors:
    """The relative squared error of the model's output, of each image that was recorded, as the file computes it.

    Args:
        model: the MODEL that the file was made of.
        plan: what the file was written by.

    Errors: StatisticsError when the model cannot be called on the recorded inputs.
    """
    with ready_to_call(model, statistics, "exact") as (root, options), CheckpointReader(file) as reader:
        meter = ImpactMeter(root, statistics.probes(_INPUTS), model.load_device, options)
        modules = dict(quantizable_layers(root))
        changes = {modules[layer.layer]: _change(reader, layer) for layer in plan.quantized if layer.layer in modules}
        return meter.impact_together(changes, weight_in_use, progress)


def _change(reader: CheckpointReader, layer: LayerPlan) -> Change:
    key, form = layer.stem + WEIGHT, layer.form
    assert form is not None
    decoder = decode_layer(reader.tensors, reader.tensor, layer.stem, reader.tensors[key].shape, reader.path)

    def read(device: torch.device) -> torch.Tensor:
        there = replace(decoder, scale=sent(decoder.scale, device))
        return there.scaled(sent(reader.tensor(key), device))

    return stored_change(read, decoder.group, form)
