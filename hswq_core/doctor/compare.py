"""Compares a quantized file with its original, one layer in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..calibration.rows import all_finite
from ..calibration.statistics import Statistics
from ..errors import CheckpointError
from ..files.checkpoint import CheckpointReader
from ..files.dtypes import is_float
from ..files.layers import WEIGHT, SourceLayers, find_layers
from ..planning.matched_source import match_source
from ..progress import Progress
from .comparison import Comparison, LayerError
from .contents import Contents
from .output_error import energy, output_error
from .prediction import Predictor


@dataclass(frozen=True)
class _Pair:
    """A layer of both. Attributes: quantized, original: [C_out, C_in, ...], float32."""

    path: str
    quantized: torch.Tensor
    original: torch.Tensor


def compare(contents: Contents, original: Path, statistics: Statistics | None, progress: Progress) -> Comparison:
    """Errors: CheckpointError for an original that cannot be read, is quantized itself, or is another model;
    StatisticsError for statistics of another model."""
    with CheckpointReader(original) as source:
        found = match_source(source, statistics) if statistics is not None else find_layers(source)
        _check_original(found, original)
        names = _names(contents)
        missing = tuple(sorted(name for path, name in names.items() if path not in found.weights))
        if len(missing) == len(names):
            raise CheckpointError(
                f"no layer of {contents.path.name} is in it", where=original, remedy="Give the file that it was made "
                "from, with the same names of tensors",
            )  # fmt: skip
        predictor = Predictor(statistics) if statistics is not None else None
        errors: list[LayerError] = []
        undecoded: dict[str, str] = {}
        unchanged = 0
        wanted = [path for path in names if path in found.weights]
        for number, path in enumerate(wanted):
            progress(number, len(wanted))
            try:
                pair = _pair(contents, names[path], path, source.tensor(found.key(path)))
            except CheckpointError as error:
                undecoded[path] = error.what
                continue
            error = _error(pair, statistics, predictor, contents)
            if error is None:
                unchanged += 1
            else:
                errors.append(error)
        progress(len(wanted), len(wanted))
    predicted = predictor.total(errors, undecoded) if predictor is not None else None
    purposes = tuple(sorted(predictor.used)) if predictor is not None else ()
    return Comparison(original.name, tuple(errors), unchanged, missing, undecoded, purposes, predicted)


def _names(contents: Contents) -> dict[str, str]:
    """The diffusion model's layers by their path in it."""
    names = (*contents.layers, *contents.kept)
    return {contents.path_of(name): name for name in names if contents.part_of(name) == "diffusion model"}


def _check_original(found: SourceLayers, original: Path) -> None:
    quantized = next((name for name, info in found.weights.items() if not is_float(info.dtype)), None)
    if quantized is not None:
        raise CheckpointError(
            f"the original is quantized itself ({quantized})", where=original, remedy="Give the model in 16 or 32 bits"
        )


def _pair(contents: Contents, name: str, path: str, original: torch.Tensor) -> _Pair:
    """Errors: CheckpointError for a layer that cannot be decoded, or has another shape."""
    layer = contents.layers.get(name)
    if layer is None:
        quantized = contents.read(name + WEIGHT)
    elif layer.decode is None:
        raise CheckpointError(f"nothing but its own kernels reads {layer.kind.label}")
    else:
        quantized = layer.decode()
    if quantized.numel() != original.numel():
        shapes = f"{list(quantized.shape)} and {list(original.shape)}"
        raise CheckpointError(f"it has another shape than in the original ({shapes})")
    return _Pair(path, quantized.float().reshape(original.shape), original.float())


def _error(
    pair: _Pair, statistics: Statistics | None, predictor: Predictor | None, contents: Contents
) -> LayerError | None:
    """``None`` for a layer that is as it was."""
    change = pair.quantized - pair.original
    if not bool(change.any()):
        return None
    weight = energy(change) / max(energy(pair.original), 1e-300)
    measured = statistics.layers.get(pair.path) if statistics is not None else None
    if measured is None or not all_finite(measured.second_moment):
        return LayerError(pair.path, weight)
    output = output_error(change, pair.original, measured)
    impact = predictor.impact(pair.path, pair.original, output) if predictor is not None else None
    return LayerError(pair.path, weight, output, impact)
