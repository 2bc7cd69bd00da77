"""The plan with the fewest bytes, from which every other one begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import PlanError
from ..files.modelspec import true_metadata
from ..files.source import TensorInfo, TensorSource
from ..formats import FORMATS
from ..options import QuantizeOptions
from ..sizes import parse_budget
from .candidates import Candidates
from .layer import LayerPlan, layout_of
from .plan import QuantizationPlan


def everything_quantized(
    found: Candidates, sensitivity: Mapping[str, float], options: QuantizeOptions
) -> QuantizationPlan:
    """The plan that keeps no layer but those that must be kept."""
    target = FORMATS[options.mode]
    text_form = target.text_form_for(options.scales, rotate=options.rotate)

    def planned(name: str, info: TensorInfo, reason: str) -> LayerPlan:
        kept = found.kept.get(name, "")
        form = text_form if name in found.texts else found.form
        return LayerPlan(name, found.key(name), info, None if kept else form, kept or reason, sensitivity.get(name))

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
        format=target,
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


def bytes_above(least: QuantizationPlan, source: TensorSource) -> int:
    """What the budget leaves above the smallest file. Errors: PlanError when it is below that."""
    options = least.options
    allowed, smallest = parse_budget(options.budget, source.nbytes), least.nbytes
    if allowed < smallest:
        # The budget stands in the file, too: the least is that of a file which names itself as its budget.
        possible = replace(least, options=replace(options, budget=str(smallest))).nbytes
        raise PlanError(
            f"the budget of {allowed:,} bytes is too small: with every layer quantized the file has {possible:,}, "
            f"of which {possible - least.unet_bytes:,} are not the diffusion model",
            where=source.path,
            remedy="Give a larger budget",
        )
    return allowed - smallest
