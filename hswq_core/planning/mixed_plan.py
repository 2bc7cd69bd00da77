"""The plan of a format in which every layer has the bits that pay."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from ..errors import PlanError
from ..files.layers import WEIGHT
from ..formats import FORMATS
from ..options import QuantizeOptions, parse_target
from ..sensitivity.rules import impacts_by_form
from .bits import Choice, Upgrade, errors_along, first_steps, knee, smallest, steps_to_error, upgrades, within_bytes
from .candidates import Candidates, find_candidates
from .layer import bytes_of_layer
from .least_plan import bytes_above, everything_quantized
from .matched_source import MatchedSource
from .plan import KEPT, QuantizationPlan, SizePoint

_POINTS_OF_TABLE, _POINTS_OF_CURVE = 10, 200
_SMALLEST = "in as few bytes as it can have"


@dataclass(frozen=True)
class BitsCurve:
    """What can be had: the smallest file, and all upgrades of its layers in the order in which they pay.

    Attributes:
        least: with every layer in its smallest choice.
        path: upgrades.
        sizes, errors: of the file, bytes, and of the model's output as predicted, after 0, 1, 2, ... upgrades.
    """

    least: QuantizationPlan
    path: Sequence[Upgrade]
    sizes: Sequence[int]
    errors: Sequence[float]


@dataclass(frozen=True)
class ErrorCurve:
    """For a chart: bytes and predicted errors of the files that can be had, the smallest first; what is planned."""

    mode: str
    sizes: tuple[int, ...]
    errors: tuple[float, ...]
    source_bytes: int
    planned_bytes: int
    planned_error: float
    layers_by_form: Mapping[str, int]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def plan_bits(found: Candidates, options: QuantizeOptions) -> QuantizationPlan:
    """Errors: StatisticsError where impacts were not measured, PlanError for a budget below the smallest file."""
    return _plan_on(bits_curve(found, options), found, options)


def _plan_on(curve: BitsCurve, found: Candidates, options: QuantizeOptions) -> QuantizationPlan:
    """The plan that the options choose on a curve."""
    curve = replace(curve, least=replace(curve.least, sizes=_points(curve)))
    plan = _chosen(curve, found, options)
    if not plan.quantized:
        raise PlanError(
            f"nothing would be quantized: {'the budget' if options.budget else 'the target'} asks for the original",
            where=found.matched.source.path,
            remedy="Give a smaller budget, or a larger target",
        )
    return plan


def _chosen(curve: BitsCurve, found: Candidates, options: QuantizeOptions) -> QuantizationPlan:
    least, path = curve.least, curve.path
    if options.budget:
        return _within_budget(curve, found)
    if options.target:
        count = steps_to_error(curve.errors, parse_target(options.target))
        return _with(least, found, first_steps(path, count), f"for a predicted error of {options.target}")
    return _with(least, found, first_steps(path, knee(curve.sizes, curve.errors)), "at the knee of error over size")


def _within_budget(curve: BitsCurve, found: Candidates) -> QuantizationPlan:
    available = allowed = bytes_above(curve.least, found.matched.source)
    while True:
        plan = _with(curve.least, found, within_bytes(curve.path, available), "worth its bytes")
        # The sizes of layers leave out that numbers in the header have more digits in a larger file.
        over = plan.nbytes - (curve.least.nbytes + allowed)
        if over <= 0:
            return plan
        available -= over


def _with(least: QuantizationPlan, found: Candidates, chosen: Mapping[str, Choice], why: str) -> QuantizationPlan:
    """The plan in which these layers have other choices than the smallest."""
    layers = tuple(
        replace(layer, form=choice.form, reason=why, sensitivity=choice.impact)
        if (choice := chosen.get(layer.layer))
        else layer
        for layer in least.layers
    )
    predicted = sum(layer.sensitivity or 0.0 for layer in layers)
    return replace(least.with_layers(found.matched.source, layers), predicted_error=predicted)


def error_curve(matched: MatchedSource, options: QuantizeOptions) -> ErrorCurve:
    """Predicted error over size, and what the options choose. Errors: as for ``plan_bits``."""
    found = find_candidates(matched, options)
    curve = bits_curve(found, options)
    plan = _plan_on(curve, found, options)
    steps = _steps(curve, _POINTS_OF_CURVE)
    return ErrorCurve(
        mode=options.mode,
        sizes=tuple(curve.sizes[step] for step in steps),
        errors=tuple(curve.errors[step] for step in steps),
        source_bytes=matched.source.nbytes,
        planned_bytes=plan.nbytes,
        planned_error=plan.predicted_error or 0.0,
        layers_by_form=plan.layers_by_form,
    )


def bits_curve(found: Candidates, options: QuantizeOptions) -> BitsCurve:
    """Errors: StatisticsError where impacts were not measured."""
    choices = _choices(found, options)
    first = {name: smallest(each) for name, each in choices.items()}
    every = everything_quantized(found, {}, options)
    least = _with(every, found, first, _SMALLEST)
    path = upgrades(choices)
    sizes = list(itertools.accumulate((upgrade.nbytes for upgrade in path), initial=least.nbytes))
    errors = errors_along(path, sum(choice.impact for choice in first.values()))
    return BitsCurve(least, path, sizes, errors)


def _points(curve: BitsCurve) -> tuple[SizePoint, ...]:
    """Some of the files that could be written, evenly spaced in size."""
    before = {layer.layer: layer.form for layer in curve.least.layers}
    points = []
    for step in _steps(curve, _POINTS_OF_TABLE):
        chosen = first_steps(curve.path, step)
        forms = [chosen[name].form if name in chosen else form for name, form in before.items()]
        counts = Counter(form.name if form else KEPT for form in forms)
        points.append(SizePoint(curve.sizes[step], curve.errors[step], dict(counts.most_common())))
    return tuple(points)


def _steps(curve: BitsCurve, count: int) -> list[int]:
    """Numbers of upgrades whose sizes are evenly spaced, the first and the last among them."""
    first, last = curve.sizes[0], curve.sizes[-1]
    wanted = [first + (last - first) * number / (count - 1) for number in range(count)]
    steps = (max(0, bisect_right(curve.sizes, size) - 1) for size in wanted)
    return sorted({*steps, len(curve.path)})


def _choices(found: Candidates, options: QuantizeOptions) -> Mapping[str, Sequence[Choice]]:
    """The choices of every layer that can be quantized; one that is quantized by pattern has that as its only one."""
    statistics = found.matched.statistics
    layers = {name: found.matched.weights[name].shape for name in (*found.open, *sorted(found.forced))}
    if statistics is None or not layers:
        return {}
    forms = FORMATS[options.mode].forms
    impacts = impacts_by_form(layers, statistics, options)
    choices: dict[str, list[Choice]] = {}
    for name in layers:
        key, info = found.key(name).removesuffix(WEIGHT), found.matched.weights[name]
        # An impact that is not a number was measured on an output that is none: the layer stays as it is.
        known = [form for form in forms if math.isfinite(impacts[form].get(name, math.inf))]
        choices[name] = [Choice(form, bytes_of_layer(key, info, form), impacts[form][name]) for form in known]
        if name not in found.forced or not known:
            choices[name].append(Choice(None, bytes_of_layer(key, info, None), 0.0))
    return choices
