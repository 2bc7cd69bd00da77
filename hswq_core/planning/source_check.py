"""What a checkpoint must be to be quantized with these statistics, as far as headers tell."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..calibration.statistics import Statistics
from ..errors import CheckpointError, StatisticsError
from ..files.dtypes import is_float
from ..files.layers import SourceLayers
from .kind_of_file import detect_other_kind

OTHER_MODEL = "Choose the checkpoint that was calibrated, or calibrate this one"
_PART = re.compile(r"-\d{5}-of-\d{5}\.")


def check_source(found: SourceLayers, statistics: Statistics | None) -> None:
    """Errors: CheckpointError for a file that cannot be quantized, StatisticsError for statistics of another model."""
    check_original(found)
    if statistics is None:
        _check_kind(found)
        _check_biases(found, found.weights)
        return
    check_patches(found.source.patches, found.source.path, statistics)
    _check_layers(found, statistics)
    _check_biases(found, statistics.layers)


def _check_layers(found: SourceLayers, statistics: Statistics) -> None:
    """Errors: StatisticsError when the statistics are of a model with other layers than the source's."""
    renamed = " (ComfyUI may name its layers otherwise than this file; HSWQ Quantize in ComfyUI takes either)"
    for name, layer in statistics.layers.items():
        info = found.weights.get(name)
        if info is None or (info.shape != layer.shape and info.shape[1] != layer.channels):
            have = (
                f"is not in this file{renamed}"
                if info is None
                else f"takes {info.shape[1]} channels here, not {layer.channels}"
            )
            raise StatisticsError(
                f"the statistics are of another model: layer {name} {have}",
                where=found.source.path,
                remedy=OTHER_MODEL,
            )


def check_original(found: SourceLayers) -> None:
    """Errors: CheckpointError for a file whose layers are quantized already, or that is one part of several."""
    path = found.source.path
    quantized = [info.dtype for info in found.weights.values() if not is_float(info.dtype)]
    if quantized:
        raise CheckpointError(
            f"{len(quantized)} of {len(found.weights)} layers are quantized already ({quantized[0]})",
            where=path,
            remedy="Quantize the original; 'hswq convert' writes a quantized file in another format",
        )
    if _PART.search(path.name):
        raise CheckpointError(
            "this is one part of a model in several files",
            where=path,
            remedy="Join the parts, or load them in ComfyUI and connect the MODEL to HSWQ Quantize",
        )


def _check_biases(found: SourceLayers, layers: Iterable[str]) -> None:
    """Errors: CheckpointError for a layer whose bias is not [C_out]: nothing could open the file that is written."""
    for name in layers:
        info, bias = found.weights[name], found.source.tensors.get(f"{found.prefix}{name}.bias")
        # A transposed convolution's weight begins with its inputs, and only calibration knows which it is.
        sizes = info.shape[:1] if len(info.shape) == 2 else info.shape
        if bias is not None and not (len(bias.shape) == 1 and bias.shape[0] in sizes):
            raise CheckpointError(
                f"layer {name}: its bias is {list(bias.shape)}, and its weight {list(info.shape)}",
                where=found.source.path,
                remedy="The file is damaged: download it again, or make it anew",
            )


def _check_kind(found: SourceLayers) -> None:
    """Errors: CheckpointError for a file that is known to be something else than a diffusion model."""
    prefix = found.prefix
    instead = detect_other_kind([key[len(prefix) :] for key in found.source.tensors if key.startswith(prefix)])
    if instead:
        raise CheckpointError(
            f"this is {instead}, and not a diffusion model as ComfyUI has it",
            where=found.source.path,
            remedy="Choose a checkpoint or a diffusion model; or load it in ComfyUI and connect the MODEL",
        )


def check_patches(patches: str, where: str | Path, statistics: Statistics) -> None:
    """Errors: StatisticsError when what was on top of the calibrated weights is not what is on top of the source's."""
    if statistics.patches == patches:
        return
    calibrated = statistics.source or "the model"
    if not patches:
        raise StatisticsError(
            f"{calibrated} was calibrated with a LoRA or a merge on top, and no file on disk holds that",
            where=where,
            remedy="Connect the MODEL that was calibrated to HSWQ Quantize, save it with Save Checkpoint and calibrate "
            "the saved file, or calibrate without the patches",
        )
    on_top = f"with other patches ({statistics.patches})" if statistics.patches else "without a LoRA or a merge on top"
    raise StatisticsError(
        f"{calibrated} was calibrated {on_top}, and this model has patches ({patches})",
        where=where,
        remedy="Connect the MODEL that was calibrated, or calibrate this one",
    )
