"""From a checkpoint, its statistics and the options to a plan, in four steps.

What can be quantized (``candidates``), the ranking of what is open (``sensitivity``), the cut (``selection``), and the
layout of the file.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from ..errors import PlanError
from ..files.modelspec import true_metadata
from ..files.source import TensorInfo, TensorSource
from ..formats import FORMATS
from ..options import QuantizeOptions
from ..progress import Progress, no_progress
from ..sensitivity.rules import layer_sensitivities
from ..sizes import parse_budget
from .candidates import Candidates, find_candidates
from .layer import LayerPlan, cost_of_keeping, layout_of
from .matched_source import MatchedSource
from .plan import QuantizationPlan
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
    statistics = matched.statistics
    if statistics is None and options.part != "text_encoders" and (options.budget or options.keep_ratio > 0):
        raise PlanError("choosing layers to keep needs statistics", remedy="Give statistics, or a keep ratio of 0")
    found = find_candidates(matched, options)
    sensitivity = (
        {}
        if statistics is None
        else layer_sensitivities(found.open, found.key, matched.source, statistics, found.form, options, progress)
    )
    least = _everything_quantized(found, sensitivity, options)
    kept, why = _cut(least, found, sensitivity)
    return keeping(least, matched.source, kept, why)


def keeping(plan: QuantizationPlan, source: TensorSource, kept: Container[str], why: str = "kept") -> QuantizationPlan:
    """The same plan with these layers kept, too."""
    layers = tuple(replace(each, form=None, reason=why) if each.layer in kept else each for each in plan.layers)
    return replace(plan, layers=layers, layout=layout_of(source, layers))


def _everything_quantized(
    found: Candidates, sensitivity: Mapping[str, float], options: QuantizeOptions
) -> QuantizationPlan:
    """The plan that keeps no layer but those that must be kept."""

    def planned(name: str, info: TensorInfo, reason: str) -> LayerPlan:
        kept = found.kept.get(name, "")
        form = None if kept else found.form
        return LayerPlan(name, found.key(name), info, form, kept or reason, sensitivity.get(name))

    matched, source = found.matched, found.matched.source
    layers = [
        planned(name, info, "quantized by pattern" if name in found.forced else "below the cut")
        for name, info in sorted(matched.weights.items())
    ]
    layers += [planned(name, info, "text encoder, by its weights") for name, info in sorted(found.texts.items())]
    tensors = {key: info for key, info in source.tensors.items() if key.startswith(matched.prefix)}
    of_layers = {layer.key for layer in layers}
    other = [i.nbytes for k, i in tensors.items() if len(i.shape) > 1 and k not in of_layers] if matched.weights else []
    return QuantizationPlan(
        options=options,
        format=FORMATS[options.mode],
        form=found.form,
        prefix=matched.prefix,
        layers=tuple(layers),
        layout=layout_of(source, layers),
        source=source.identity,
        base_metadata=true_metadata(source, matched.prefix, options.mode),
        source_unet_bytes=sum(info.nbytes for info in tensors.values()),
        other_bytes=sum(other),
        source_fingerprint=matched.fingerprint.digest,
        source_patches=source.patches,
        statistics_digest=matched.statistics.digest() if matched.statistics else "",
    )


def _cut(least: QuantizationPlan, found: Candidates, sensitivity: Mapping[str, float]) -> tuple[set[str], str]:
    """The most sensitive layers, by count or by bytes, and why they are kept."""
    options, source = least.options, found.matched.source
    if not options.budget:
        return cut_by_ratio(sensitivity, options.keep_ratio), f"top {options.keep_ratio:g} by {options.selection}"
    allowed = parse_budget(options.budget, source.nbytes)
    smallest = least.nbytes
    if allowed < smallest:
        # The budget stands in the file, too: the least is that of a file which names itself as its budget.
        possible = replace(least, options=replace(options, budget=str(smallest))).nbytes
        raise PlanError(
            f"the budget of {allowed:,} bytes is too small: with every layer quantized the file has {possible:,}, "
            f"of which {possible - least.unet_bytes:,} are not the diffusion model",
            where=source.path,
            remedy="Give a larger budget",
        )
    cost = {name: cost_of_keeping(name, found.matched.weights[name], found.form) for name in sensitivity}
    kept = cut_by_bytes(sensitivity, cost, allowed - smallest, per_byte=options.selection != "variance")
    return kept, f"worth its bytes by {options.selection}"
