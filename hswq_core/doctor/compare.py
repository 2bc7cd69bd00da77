"""Compares a quantized file with its original, a few layers in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..calibration.rows import all_finite
from ..calibration.statistics import Statistics
from ..errors import CheckpointError
from ..files.checkpoint import CheckpointReader
from ..files.layers import WEIGHT, find_layers
from ..parallel import ordered_map
from ..planning.matched_source import match_source
from ..progress import Progress
from .comparison import Comparison, LayerError
from .contents import Contents
from .not_the_original import check_unquantized, no_layer_of
from .output_error import energy, output_error
from .prediction import Predictor


@dataclass(frozen=True)
class _Unreadable:
    """A layer that cannot be compared, and why."""

    reason: str


def compare(contents: Contents, original: Path, statistics: Statistics | None, progress: Progress) -> Comparison:
    """Errors: CheckpointError for an original that cannot be read, is quantized itself, or is another model;
    StatisticsError for statistics of another model."""
    with CheckpointReader(original) as source:
        found = match_source(source, statistics) if statistics is not None else find_layers(source)
        check_unquantized(source.tensors, map(found.key, found.weights), original)
        names = _names(contents)
        missing = tuple(sorted(name for path, name in names.items() if path not in found.weights))
        if len(missing) == len(names):
            raise no_layer_of(contents.path, original)
        predictor = Predictor(statistics) if statistics is not None else None

        def compared(path: str) -> LayerError | _Unreadable | None:
            weight = source.tensor(found.key(path)).float()
            try:
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
    return Comparison(original.name, errors, unchanged, missing, undecoded, purposes, predicted)


def _names(contents: Contents) -> dict[str, str]:
    """The diffusion model's layers by their path in it."""
    return {contents.path_of(name): name for name in contents.names_in("diffusion model")}


def _weight(contents: Contents, name: str, shape: torch.Size) -> torch.Tensor:
    """As the file has it, float32. Errors: CheckpointError for one that cannot be decoded, or has another shape."""
    layer = contents.layers.get(name)
    if layer is None:
        found = contents.read(name + WEIGHT)
    elif layer.decode is None:
        raise CheckpointError(f"nothing but its own kernels reads {layer.kind.label}")
    else:
        found = layer.decode()
    if found.numel() != shape.numel():
        raise CheckpointError(f"it has another shape than in the original ({list(found.shape)} and {list(shape)})")
    return found.float().reshape(shape)


def _error(
    path: str,
    quantized: torch.Tensor,
    weight: torch.Tensor,
    statistics: Statistics | None,
    predictor: Predictor | None,
) -> LayerError | None:
    """``None`` for a layer that is as it was."""
    change = quantized.sub_(weight)  # nobody else has it
    lost, whole = energy(change), energy(weight)
    if not lost:
        return None
    relative = lost / max(whole, 1e-300)
    measured = statistics.layers.get(path) if statistics is not None else None
    if measured is None or not all_finite(measured.second_moment):
        return LayerError(path, relative)
    output = output_error(change, weight, measured)
    impact = predictor.impact(path, weight, output) if predictor is not None else None
    return LayerError(path, relative, output, impact)
