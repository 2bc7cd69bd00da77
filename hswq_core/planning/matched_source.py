"""A source and the statistics of its model, with all that is found out about both: once, for everything after it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..calibration.statistics import Statistics
from ..errors import CheckpointError, StatisticsError
from ..files.dtypes import is_float
from ..files.layers import SourceLayers, find_layers
from ..files.source import TensorSource
from ..fingerprint import Fingerprint
from .source_check import OTHER_MODEL, check_source


@dataclass(frozen=True)
class MatchedSource(SourceLayers):
    """The layers of a source that was checked: it can be quantized, and the statistics, if any, are of its model.

    Attributes:
        statistics: of the model, as they were when it was matched, or with impacts that were measured since.
        fingerprint: of the source's layers that are not empty.
    """

    statistics: Statistics | None
    fingerprint: Fingerprint

    def with_statistics(self, statistics: Statistics | None) -> MatchedSource:
        """The same with statistics that changed since: more impacts, no other model."""
        return replace(self, statistics=statistics)

    def without_layers(self) -> MatchedSource:
        """The same for a file in which the diffusion model stays as it is."""
        return replace(self, weights={}, fingerprint=self.fingerprint.of_layers(()))


def match_source(
    source: TensorSource, statistics: Statistics | None = None, *, text_encoders_alone: bool = False
) -> MatchedSource:
    """Find the layers, read the fingerprint, and check that source and statistics are of one model.

    Args:
        text_encoders_alone: whether the diffusion model is to stay as it is, and may be missing.

    Errors: CheckpointError for a source without a diffusion model, that is quantized already, or is damaged;
    StatisticsError for statistics without a run, or of another model.
    """
    if statistics is not None:
        statistics.check_not_empty()
    found = find_layers(source, statistics.layers if statistics else None)
    if text_encoders_alone:
        found = replace(found, weights={})
    else:
        check_source(found, statistics)
    matched = MatchedSource(source, found.prefix, found.weights, statistics, _fingerprint(found))
    expected = statistics.fingerprint if statistics and not text_encoders_alone else None
    if expected and not expected.matches(matched.fingerprint.of_layers(expected.layers)):
        raise StatisticsError(
            "the statistics are of another model: the weights differ", where=source.path, remedy=OTHER_MODEL
        )
    return matched


def _fingerprint(found: SourceLayers) -> Fingerprint:
    names = [name for name, info in found.weights.items() if math.prod(info.shape)]
    return Fingerprint.of(names, lambda name, positions: found.source.elements(found.key(name), positions))


def holds_model_of(source: TensorSource, statistics: Statistics) -> MatchedSource | None:
    """The match of a source that is the model the statistics were measured on, in a type that can be quantized."""
    try:
        found = match_source(source, replace(statistics, patches=source.patches))
    except (CheckpointError, StatisticsError):
        return None
    is_plain = all(is_float(found.weights[name].dtype) for name in statistics.layers)
    return found.with_statistics(statistics) if is_plain else None


def names_differ(source: TensorSource, statistics: Statistics) -> bool:
    """Whether layers that were calibrated are not in the source by their names: it may be another model, or be named
    by other rules than ComfyUI's modules."""
    try:
        weights = find_layers(source, statistics.layers).weights
    except CheckpointError:
        return True
    return any(name not in weights for name in statistics.layers)
