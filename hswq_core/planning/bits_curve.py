"""What can be had: predicted error over size, for every number of bytes that a format can make of a source."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..files.layers import WEIGHT
from ..files.source import TensorInfo
from ..formats import FORMATS, Form
from ..options import QuantizeOptions
from ..sensitivity.rules import impacts_by_form
from .bits import Choice, Upgrade, first_steps, frontier
from .candidates import Candidates
from .layer import bytes_of_layer
from .least_plan import everything_quantized
from .plan import KEPT, QuantizationPlan, SizePoint

_POINTS_OF_TABLE = 10
_SMALLEST = "in as few bytes as it can have"


@dataclass(frozen=True)
class BitsCurve:
    """The smallest file, and all upgrades of its layers in the order in which they pay.

    Attributes:
        least: with every layer in its smallest choice.
        path: upgrades.
        sizes, errors: of the file, bytes, and of the model's output as predicted, after 0, 1, 2, ... upgrades.
    """

    least: QuantizationPlan
    path: Sequence[Upgrade]
    sizes: Sequence[int]
    errors: Sequence[float]


def bits_curve(found: Candidates, options: QuantizeOptions) -> BitsCurve:
    """Errors: StatisticsError where impacts were not measured."""
    best = frontier(_choices(found, options))
    least = with_choices(everything_quantized(found, {}, options), found, best.first, _SMALLEST)
    return BitsCurve(least, best.path, best.sizes(least.nbytes), best.errors)


def with_choices(
    least: QuantizationPlan, found: Candidates, chosen: Mapping[str, Choice], why: str
) -> QuantizationPlan:
    """The plan in which these layers have other choices than the smallest."""
    layers = tuple(
        replace(layer, form=choice.form, reason=why, sensitivity=choice.impact)
        if (choice := chosen.get(layer.layer))
        else layer
        for layer in least.layers
    )
    predicted = sum(layer.sensitivity or 0.0 for layer in layers)
    return replace(least.with_layers(found.matched.source, layers), predicted_error=predicted)


def points_of(curve: BitsCurve) -> tuple[SizePoint, ...]:
    """Some of the files that could be written, evenly spaced in size."""
    before = {layer.layer: layer.form for layer in curve.least.layers}
    points = []
    for step in steps_of(curve, _POINTS_OF_TABLE):
        chosen = first_steps(curve.path, step)
        forms = [chosen[name].form if name in chosen else form for name, form in before.items()]
        counts = Counter(form.name if form else KEPT for form in forms)
        points.append(SizePoint(curve.sizes[step], curve.errors[step], dict(counts.most_common())))
    return tuple(points)


def steps_of(curve: BitsCurve, count: int) -> list[int]:
    """Numbers of upgrades whose sizes are evenly spaced, the first and the last among them."""
    first, last = curve.sizes[0], curve.sizes[-1]
    wanted = [first + (last - first) * number / (count - 1) for number in range(count)]
    steps = (max(0, bisect_right(curve.sizes, size) - 1) for size in wanted)
    return sorted({*steps, len(curve.path)})


def _choices(found: Candidates, options: QuantizeOptions) -> Mapping[str, Sequence[Choice]]:
    """The choices of every layer that can be quantized; one that is quantized by pattern is not kept by choice."""
    statistics = found.matched.statistics
    layers = {name: found.matched.weights[name].shape for name in (*found.open, *sorted(found.forced))}
    if statistics is None or not layers:
        return {}
    # Without a menu, what is written may have more beside its codes than the form that impacts are measured for.
    written = {form: form if FORMATS[options.mode].menu else found.form for form in FORMATS[options.mode].forms}
    impacts = impacts_by_form(layers, statistics, options)
    choices: dict[str, list[Choice]] = {}
    for name in layers:
        key, info = found.key(name).removesuffix(WEIGHT), found.matched.weights[name]
        known = {written[form]: each[name] for form, each in impacts.items() if name in each}
        choices[name] = choices_of(key, info, known, is_forced=name in found.forced)
    return choices


def choices_of(name: str, info: TensorInfo, impacts: Mapping[Form, float], *, is_forced: bool = False) -> list[Choice]:
    """The ways to store a layer, by the impact of each form. Args: is_forced: whether it is not to stay as it is."""
    # An impact that is not a number was measured on an output that is none: the layer stays as it is.
    found = [
        Choice(form, bytes_of_layer(name, info, form), impact)
        for form, impact in impacts.items()
        if math.isfinite(impact)
    ]
    return found if is_forced and found else [*found, Choice(None, bytes_of_layer(name, info, None), 0.0)]
