"""The plan of a format in which every layer has the bits that pay."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..files.layers import WEIGHT
from ..formats import FORMATS
from ..options import QuantizeOptions, parse_target
from ..sensitivity.rules import impacts_by_form
from .bits import Choice, Upgrade, errors_along, first_steps, knee, smallest, steps_to_error, upgrades, within_bytes
from .candidates import Candidates
from .layer import bytes_of_layer, layout_of
from .least_plan import bytes_above, everything_quantized
from .plan import QuantizationPlan


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


def plan_bits(found: Candidates, options: QuantizeOptions) -> QuantizationPlan:
    """Errors: StatisticsError where impacts were not measured, PlanError for a budget below the smallest file."""
    curve = bits_curve(found, options)
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
    return replace(least, layers=layers, layout=layout_of(found.matched.source, layers), predicted_error=predicted)


def bits_curve(found: Candidates, options: QuantizeOptions) -> BitsCurve:
    """Errors: StatisticsError where impacts were not measured."""
    choices = _choices(found, options)
    first = {name: smallest(each) for name, each in choices.items()}
    least = everything_quantized(found, {name: choice.impact for name, choice in first.items()}, options)
    path = upgrades(choices)
    sizes = list(itertools.accumulate((upgrade.nbytes for upgrade in path), initial=least.nbytes))
    errors = errors_along(path, sum(choice.impact for choice in first.values()))
    return BitsCurve(replace(least, predicted_error=errors[0]), path, sizes, errors)


def _choices(found: Candidates, options: QuantizeOptions) -> Mapping[str, Sequence[Choice]]:
    """The choices of every layer that can be quantized; one that is quantized by pattern has that as its only one."""
    statistics = found.matched.statistics
    layers = [*found.open, *sorted(found.forced)]
    if statistics is None or not layers:
        return {}
    forms = FORMATS[options.mode].forms
    impacts = impacts_by_form(layers, statistics, options)
    choices: dict[str, list[Choice]] = {}
    for name in layers:
        key, info = found.key(name).removesuffix(WEIGHT), found.matched.weights[name]
        choices[name] = [Choice(form, bytes_of_layer(key, info, form), impacts[form][name]) for form in forms]
        if name not in found.forced:
            choices[name].append(Choice(None, bytes_of_layer(key, info, None), 0.0))
    return choices
