"""How small a file can become, from the source's header alone: asked before anything that takes hours."""

from __future__ import annotations

import math

from ..errors import PlanError
from ..files.layers import WEIGHT, find_prefix, layer_weights, stray_tensor
from ..files.source import TensorSource
from ..files.text_encoders import text_encoder_layers
from ..files.writer import FileLayout
from ..options import QuantizeOptions
from ..sizes import parse_budget
from .layer import LayerPlan, layout_of
from .make_plan import format_of, matching


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
    form, alone = format_of(options), options.part == "text_encoders"
    prefix = "" if alone else find_prefix(source)
    weights = {} if alone else layer_weights(source, prefix)
    kept = matching(options.force_keep, weights)
    layers = [
        LayerPlan(name, f"{prefix}{name}{WEIGHT}", info, len(info.shape) in form.dimensions and name not in kept, "")
        for name, info in weights.items()
    ]
    if options.part != "unet":
        texts = text_encoder_layers(source, alone=alone)
        layers += [LayerPlan(name, name + WEIGHT, info, True, "") for name, info in texts.items()]
    possible = [
        layer for layer in layers if math.prod(layer.info.shape) and not stray_tensor(source.tensors, layer.stem)
    ]
    return FileLayout(layout_of(source, form, possible), {}).nbytes
