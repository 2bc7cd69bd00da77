"""How small a file can become, from the source's header alone: asked before anything that takes hours."""

from __future__ import annotations

import math

from ..errors import PlanError
from ..files.layers import WEIGHT, find_layers
from ..files.source import TensorSource
from ..files.writer import FileLayout
from ..formats import FORMATS
from ..formats.stored_layer import stray_tensor
from ..options import QuantizeOptions
from ..sizes import parse_budget
from .candidates import matching, texts_of
from .layer import LayerPlan, layout_of


def check_budget(source: TensorSource, options: QuantizeOptions) -> None:
    """Errors: PlanError when not even a file with every layer quantized fits into the budget, if there is one."""
    if not options.budget:
        return
    allowed, least = parse_budget(options.budget, source.nbytes), smallest_size(source, options)
    if allowed < least:
        raise PlanError(
            f"the budget of {allowed:,} bytes is too small: with every layer quantized the file has at least {least:,}",
            where=source.path,
            remedy="Give a larger budget",
        )


def smallest_size(source: TensorSource, options: QuantizeOptions) -> int:
    """Bytes that the quantized file has at least: whatever the statistics say, no more layers are quantized than here.

    Errors: PlanError for a pattern that matches no layer.
    """
    target = FORMATS[options.mode]
    form = target.form_for(options.scales, rotate=options.rotate)
    layers = []
    if options.part != "text_encoders":
        found = find_layers(source)
        kept = matching(options.force_keep, found.weights)
        layers += [
            LayerPlan(name, found.key(name), info, form, "")
            for name, info in found.weights.items()
            if len(info.shape) in target.dimensions and name not in kept
        ]
    of_texts = target.text_form_for(options.scales, rotate=options.rotate)
    layers += [LayerPlan(name, name + WEIGHT, info, of_texts, "") for name, info in texts_of(source, options).items()]
    possible = [
        layer for layer in layers if math.prod(layer.info.shape) and not stray_tensor(source.tensors, layer.stem)
    ]
    return FileLayout(layout_of(source, possible), {}).nbytes
