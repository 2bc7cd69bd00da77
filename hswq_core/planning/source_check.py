"""The checkpoint to quantize: its layers, and whether statistics are of its model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..calibration.statistics import Statistics
from ..errors import CheckpointError, StatisticsError
from ..files.dtypes import is_float
from ..files.layers import QUANTIZED_DTYPES, WEIGHT, find_prefix, layer_weights
from ..files.source import TensorInfo, TensorSource
from ..fingerprint import Fingerprint, Read, legacy_fingerprint
from .kind_of_file import what_it_is_instead

_PART = re.compile(r"-\d{5}-of-\d{5}\.")


def check_model(source: TensorSource, prefix: str, weights: dict[str, TensorInfo], statistics: Statistics) -> None:
    """Errors: StatisticsError when the statistics are of another model than the source's."""
    remedy = "Choose the checkpoint that was calibrated, or calibrate this one"
    renamed = " (ComfyUI may name its layers otherwise than this file; HSWQ Quantize in ComfyUI takes either)"
    for name, layer in statistics.layers.items():
        info = weights.get(name)
        if info is None or (info.shape != layer.shape and info.shape[1] != layer.channels):
            have = (
                f"is not in this file{renamed}"
                if info is None
                else f"takes {info.shape[1]} channels here, not {layer.channels}"
            )
            raise StatisticsError(
                f"the statistics are of another model: layer {name} {have}", where=source.path, remedy=remedy
            )
    expected = statistics.fingerprint
    if expected and not expected.matches(_as_in(source, prefix, weights, statistics)):
        raise StatisticsError(
            "the statistics are of another model: the weights differ", where=source.path, remedy=remedy
        )


def check_original(source: TensorSource, weights: Mapping[str, TensorInfo]) -> None:
    """Errors: CheckpointError for a file whose layers are quantized already, or that is one part of several."""
    quantized = [info.dtype for info in weights.values() if info.dtype in QUANTIZED_DTYPES]
    if quantized:
        raise CheckpointError(
            f"{len(quantized)} of {len(weights)} layers are quantized already ({quantized[0]})",
            where=source.path,
            remedy="Quantize the original; 'hswq convert' writes a quantized file in another format",
        )
    if _PART.search(source.path.name):
        raise CheckpointError(
            "this is one part of a model in several files",
            where=source.path,
            remedy="Join the parts, or load them in ComfyUI and connect the MODEL to HSWQ Quantize",
        )


def check_biases(source: TensorSource, prefix: str, weights: Mapping[str, TensorInfo]) -> None:
    """Errors: CheckpointError for a layer whose bias is not [C_out]: nothing could open the file that is written."""
    for name, info in weights.items():
        bias = source.tensors.get(f"{prefix}{name}.bias")
        # A transposed convolution's weight begins with its inputs, and only calibration knows which it is.
        sizes = info.shape[:1] if len(info.shape) == 2 else info.shape
        if bias is not None and not (len(bias.shape) == 1 and bias.shape[0] in sizes):
            raise CheckpointError(
                f"layer {name}: its bias is {list(bias.shape)}, and its weight {list(info.shape)}",
                where=source.path,
                remedy="The file is damaged: download it again, or make it anew",
            )


def check_not_quantized(source: TensorSource) -> None:
    """Errors: CheckpointError for a file whose layers are quantized already."""
    check_original(source, layer_weights(source, find_prefix(source)))


def check_kind(source: TensorSource, prefix: str) -> None:
    """Errors: CheckpointError for a file that is known to be something else than a diffusion model."""
    instead = what_it_is_instead([key[len(prefix) :] for key in source.tensors if key.startswith(prefix)])
    if instead:
        raise CheckpointError(
            f"this is {instead}, and no diffusion model as ComfyUI has it",
            where=source.path,
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


def holds_model_of(source: TensorSource, statistics: Statistics) -> bool:
    """Whether the source is the model that the statistics were measured on, in a type that can be quantized."""
    try:
        prefix = find_prefix(source, statistics.layers)
        weights = layer_weights(source, prefix)
        check_model(source, prefix, weights, statistics)
    except (CheckpointError, StatisticsError):
        return False
    return all(is_float(weights[name].dtype) for name in statistics.layers)


def names_differ(source: TensorSource, statistics: Statistics) -> bool:
    """Whether layers that were calibrated are not in the source by their names: it may be another model, or be named
    by other rules than ComfyUI's modules."""
    try:
        weights = layer_weights(source, find_prefix(source, statistics.layers))
    except CheckpointError:
        return True
    return any(name not in weights for name in statistics.layers)


def fingerprint_of(source: TensorSource, prefix: str, layers: Iterable[str]) -> Fingerprint:
    return Fingerprint.of(list(layers), _reader(source, prefix))


def _as_in(source: TensorSource, prefix: str, weights: Mapping[str, TensorInfo], statistics: Statistics) -> Fingerprint:
    """The source's fingerprint over the layers of the statistics' model, whether they ran or not."""
    expected = statistics.fingerprint
    assert expected is not None
    if expected.legacy:
        return legacy_fingerprint(list(statistics.layers), _reader(source, prefix))
    return fingerprint_of(source, prefix, [name for name in expected.layers if name in weights])


def _reader(source: TensorSource, prefix: str) -> Read:
    return lambda name, positions: source.elements(f"{prefix}{name}{WEIGHT}", positions)
