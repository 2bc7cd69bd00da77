"""Predicted error over size from statistics alone: for every format that impacts were measured for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..calibration.statistics import Statistics
from ..files.source import TensorInfo
from ..formats import FORMATS, Form
from ..options import MODEL_CARD, MODEL_CARD_OPTIONS, ROUNDINGS, QuantizeOptions
from ..sensitivity.rules import layers_without_impact
from .bits import frontier
from .bits_curve import choices_of
from .layer import bytes_of_layer
from .selection import cut_by_ratio


@dataclass(frozen=True)
class MeasuredCurve:
    """What a format can have, the smallest first.

    Attributes:
        name: of the format and the rounding.
        shares: of the bytes that the layers have in 16 bits.
        errors: of the model's output, as predicted.
    """

    name: str
    shares: tuple[float, ...]
    errors: tuple[float, ...]


def measured_curves(statistics: Statistics) -> tuple[MeasuredCurve, ...]:
    """Of the formats that quantize convolutions, too, and of those in which every layer has its own form."""
    found = []
    for rounding, (mode, kind) in itertools.product(ROUNDINGS, FORMATS.items()):
        options = QuantizeOptions(mode=mode, rounding=rounding)
        measured = not any(layers_without_impact(statistics, purpose) for purpose in options.purposes)
        if measured and (kind.menu or len(kind.dimensions) > 1):
            found.append(_curve(f"{mode}, {rounding}", statistics, options))
    return tuple(found)


def card_point(statistics: Statistics) -> tuple[float, float] | None:
    """Share of the bytes and predicted error of the model card's file; ``None`` where it was not measured."""
    impacts = statistics.impacts(str(MODEL_CARD))
    layers = _layers(statistics)
    if layers_without_impact(statistics, MODEL_CARD) or not layers:
        return None
    kept = cut_by_ratio(
        {name: each.sensitivity for name, each in statistics.layers.items()}, MODEL_CARD_OPTIONS.keep_ratio
    )
    size = sum(bytes_of_layer(name, info, None if name in kept else MODEL_CARD.form) for name, info in layers.items())
    return size / _whole(layers), sum(impact for name, impact in impacts.items() if name not in kept)


def _curve(name: str, statistics: Statistics, options: QuantizeOptions) -> MeasuredCurve:
    layers, dimensions = _layers(statistics), FORMATS[options.mode].dimensions

    def impacts(layer: str, info: TensorInfo) -> dict[Form, float]:
        found = statistics.layers[layer].impacts
        can_have = [p for p in options.purposes if len(info.shape) in dimensions and p.form.holds(layer, info.shape)]
        return {purpose.form: found[str(purpose)] for purpose in can_have}

    best = frontier({layer: choices_of(layer, info, impacts(layer, info)) for layer, info in layers.items()})
    sizes, whole = best.sizes(sum(choice.nbytes for choice in best.first.values())), _whole(layers)
    return MeasuredCurve(name, tuple(size / whole for size in sizes), tuple(best.errors))


def _layers(statistics: Statistics) -> Mapping[str, TensorInfo]:
    """The layers as a file has them in 16 bits."""
    shapes = {name: each.shape for name, each in statistics.layers.items() if each.shape}
    return {name: TensorInfo("F16", shape, 0, 2 * math.prod(shape)) for name, shape in shapes.items()}


def _whole(layers: Mapping[str, TensorInfo]) -> int:
    return sum(info.nbytes for info in layers.values())
