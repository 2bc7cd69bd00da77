"""From a checkpoint, its statistics and the options to a plan, in four steps.

What can be quantized (``candidates``), the ranking of what is open (``sensitivity``), the cut (``selection``), and the
layout of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import PlanError
from ..formats import FORMATS
from ..options import MODEL_CARD_OPTIONS, QuantizeOptions
from ..progress import Progress, no_progress
from ..sensitivity.rules import layer_sensitivities, predicted_error
from .bits_curve import BitsCurve, bits_curve, points_of
from .candidates import Candidates, find_candidates
from .layer import cost_of_keeping
from .least_plan import bytes_above, everything_quantized
from .matched_source import MatchedSource
from .mixed_plan import plan_bits
from .plan import QuantizationPlan, SizePoint
from .selection import cut_by_bytes, cut_by_ratio


def make_plan(
    matched: MatchedSource, options: QuantizeOptions, *, progress: Progress = no_progress
) -> QuantizationPlan:
    """Decide for every layer of the source's diffusion model.

    Args:
        progress: called with layers done and layers in all, where weights must be read to decide.

    Errors: PlanError for options that make no plan, StatisticsError for missing rows or impacts, CheckpointError for
    a source without the part that is to be quantized.
    """
    return plan_with_curve(matched, options, progress=progress)[0]


def plan_with_curve(
    matched: MatchedSource, options: QuantizeOptions, *, progress: Progress = no_progress
) -> tuple[QuantizationPlan, BitsCurve | None]:
    """The same, and what else could be had, where errors can be predicted."""
    statistics = matched.statistics
    if statistics is None and options.part != "text_encoders" and (options.budget or options.keep_ratio > 0):
        raise PlanError(
            "choosing layers to keep needs statistics",
            remedy="Give the session that HSWQ Calibrate wrote to output/hswq (--stats), or a keep ratio of 0",
        )
    if statistics is None and FORMATS[options.mode].menu and options.part != "text_encoders":
        raise PlanError(
            f"{options.mode} chooses the bits of each layer by its measured impact, and there are no statistics",
            remedy="Give statistics, measured for it by HSWQ Measure Sensitivity, or choose another mode",
        )
    found = find_candidates(matched, options)
    if FORMATS[options.mode].menu:
        curve = bits_curve(found, options)
        plan = plan_bits(curve, found, options)
    else:
        plan = _by_cut(found, options, progress)
        curve = None if plan.predicted_error is None else bits_curve(found, options)
    if curve is None:
        return plan, None
    card = _by_cut(find_candidates(matched, MODEL_CARD_OPTIONS), MODEL_CARD_OPTIONS, no_progress)
    error = card.predicted_error
    point = None if error is None else SizePoint(card.nbytes, error, card.layers_by_form)
    return replace(plan, sizes=points_of(curve), card=point), curve


def _by_cut(found: Candidates, options: QuantizeOptions, progress: Progress) -> QuantizationPlan:
    """The plan in which all quantized layers have one form."""
    matched, statistics = found.matched, found.matched.statistics
    sensitivity = (
        {}
        if statistics is None
        else layer_sensitivities(found.open, found.key, matched.source, statistics, found.form, options, progress)
    )
    least = _with_prediction(everything_quantized(found, sensitivity, options), found)
    kept, why = _cut(least, found, sensitivity)
    layers = [replace(each, form=None, reason=why) if each.layer in kept else each for each in least.layers]
    plan = least.with_layers(matched.source, layers)
    return plan if least.predicted_error is None else _with_prediction(plan, found)


def _with_prediction(plan: QuantizationPlan, found: Candidates) -> QuantizationPlan:
    statistics = found.matched.statistics
    if statistics is None:
        return plan
    layers = [each.layer for each in plan.quantized if each.layer not in found.texts]
    return replace(plan, predicted_error=predicted_error(layers, statistics, plan.options))


def _cut(least: QuantizationPlan, found: Candidates, sensitivity: Mapping[str, float]) -> tuple[set[str], str]:
    """The most sensitive layers, by count or by bytes, and why they are kept."""
    options, source = least.options, found.matched.source
    if not options.budget:
        return cut_by_ratio(sensitivity, options.keep_ratio), f"top {options.keep_ratio:g} by {options.selection}"
    available = bytes_above(least, source)
    cost = {name: cost_of_keeping(name, found.matched.weights[name], found.form) for name in sensitivity}
    kept = cut_by_bytes(sensitivity, cost, available, per_byte=options.selection != "variance")
    return kept, f"worth its bytes by {options.selection}"
