"""Compares a quantized file with its original, a few layers in memory at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ..calibration.rows import all_finite
from ..calibration.statistics import Statistics
from ..errors import CheckpointError
from ..files.checkpoint import CheckpointReader
from ..files.layers import WEIGHT, SourceLayers, find_layers
from ..files.text_encoders import TEXT_ENCODERS
from ..formats.refusal import is_refusal
from ..parallel import ordered_map
from ..planning.matched_source import match_source
from ..progress import Progress
from .comparison import Comparison, LayerError
from .contents import VAES, Contents
from .kinds import QUANTO_INT4
from .layer import without_ones
from .not_the_original import check_unquantized, no_diffusion_model, no_layer_of
from .output_error import energy, output_error
from .prediction import Predictor

_STORED = (WEIGHT, ".weight._data", ".weight._data._data", "._weight_qdata", ".weight_packed", ".qweight")
"""What the codes or the weight of a layer may be called, by all tools."""


@dataclass(frozen=True)
class _Unreadable:
    """A layer of which there is no error that means anything, and why."""

    reason: str


def compare(contents: Contents, original: Path, statistics: Statistics | None, progress: Progress) -> Comparison:
    """Errors: CheckpointError for a file without a diffusion model, for an original that cannot be read, is quantized
    itself, or is another model; StatisticsError for statistics of another model."""
    if not contents.names_in("diffusion model"):
        raise no_diffusion_model(contents.path)
    with CheckpointReader(original) as source:
        found = match_source(source, statistics) if statistics is not None else find_layers(source)
        check_unquantized(source.tensors, map(found.key, found.weights), original)
        names = _names(contents, found)
        missing = tuple(sorted(name for path, name in names.items() if path not in found.weights))
        if len(missing) == len(names):
            raise no_layer_of(contents.path, original)
        lacking = _lacking(contents, found, names)
        predictor = Predictor(statistics) if statistics is not None else None

        def compared(path: str) -> LayerError | _Unreadable | None:
            try:
                weight = source.tensor(found.key(path)).float()
                quantized = _weight(contents, names[path], weight.shape)
            except CheckpointError as error:
                return _Unreadable(error.what)
            return _error(path, quantized, weight, statistics, predictor)

        wanted = [path for path in names if path in found.weights]
        results: dict[str, LayerError | _Unreadable | None] = {}
        for path, result in zip(wanted, ordered_map(compared, wanted), strict=True):
            results[path] = result
            progress(len(results), len(wanted))
    errors = tuple(result for result in results.values() if isinstance(result, LayerError))
    undecoded = {path: result.reason for path, result in results.items() if isinstance(result, _Unreadable)}
    unchanged = sum(result is None for result in results.values())
    predicted = predictor.total(errors, undecoded) if predictor is not None else None
    purposes = tuple(sorted(predictor.used)) if predictor is not None else ()
    return Comparison(original.name, errors, unchanged, missing, lacking, undecoded, purposes, predicted)


def _names(contents: Contents, found: SourceLayers) -> dict[str, str]:
    """The diffusion model's layers by their path in it; with weights of the original's names that are no matrices."""
    names = {contents.path_of(name): name for name in contents.names_in("diffusion model")}
    flat = {path: contents.prefix + path for path in found.weights if path not in names}
    return names | {path: name for path, name in flat.items() if name + WEIGHT in contents.tensors}


def _lacking(contents: Contents, found: SourceLayers, names: dict[str, str]) -> tuple[str, ...]:
    """The original's layers that are not in the file in any way, by their paths in the diffusion model."""
    # A layer beside those that only the file has may be one of them: Nunchaku stores to_q, to_k and to_v as to_qkv.
    fused = {_parent(path) for path in names if path not in found.weights} - {""}
    return tuple(
        path
        for path, info in found.weights.items()
        if path not in names
        and _parent(path) not in fused
        and not found.key(path).startswith((*TEXT_ENCODERS, *VAES))
        and not is_refusal(found.key(path), info.shape)
        and not any(contents.prefix + path + ending in contents.tensors for ending in _STORED)
    )


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _weight(contents: Contents, name: str, shape: torch.Size) -> torch.Tensor:
    """As the file has it, float32. Errors: CheckpointError for one that cannot be decoded, or has another shape."""
    layer = contents.layers.get(name)
    if layer is None:
        found = contents.read(name + WEIGHT)
    elif layer.decode is None:
        raise CheckpointError(f"nothing but its own kernels reads {layer.kind.label}")
    else:
        found = layer.decode()
    # optimum-quanto stores groups as rows, and the shape of the weight nowhere.
    fits = found.numel() == shape.numel() and layer is not None and layer.kind == QUANTO_INT4
    if not fits and without_ones(found.shape) != without_ones(shape):
        raise CheckpointError(f"it has another shape than in the original ({list(found.shape)} and {list(shape)})")
    return found.float().reshape(shape)


def _error(
    path: str,
    quantized: torch.Tensor,
    weight: torch.Tensor,
    statistics: Statistics | None,
    predictor: Predictor | None,
) -> LayerError | _Unreadable | None:
    """``None`` for a layer that is as it was."""
    whole = energy(weight)
    if not math.isfinite(whole):
        return _Unreadable("the original's weights are not finite")
    change = quantized.sub_(weight)  # nobody else has it
    lost = energy(change)
    if not math.isfinite(lost):
        return _Unreadable("its weights are not finite")
    if not lost:
        return None
    if not whole:
        return _Unreadable("the original's weights are zero")
    relative = lost / whole
    measured = statistics.layers.get(path) if statistics is not None else None
    if measured is None or not all_finite(measured.second_moment):
        return LayerError(path, relative)
    output = _finite(output_error(change, weight, measured))
    if output is None or predictor is None:
        return LayerError(path, relative, output)
    return LayerError(path, relative, output, _finite(predictor.impact(path, weight, output)))


def _finite(number: float | None) -> float | None:
    """``None`` where weights are so large that outputs overflow: JSON has no infinity."""
    return number if number is not None and math.isfinite(number) else None
