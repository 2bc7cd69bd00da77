"""One damaged layer: what it can become, the best first, and which of these is as good as its format is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ...errors import CheckpointError
from ...files.decode import decode_layer
from ...files.layers import WEIGHT
from ...formats import Form
from ...formats.stored_layer import DESCRIPTION
from ...rounding.rotation import rotated
from .. import kinds
from ..contents import Contents
from ..kinds import Kind
from ..layer import QuantizedLayer, without_ones
from ..output_error import energy
from .descriptions import descriptions, lost_description
from .forms import forms_of, is_scale, kind_of_scaled, own_error, quantized_again, rescaled

How = Literal["scales recomputed", "quantized again", "restored from the original", "described again"]
Tensors = dict[str, torch.Tensor]
ROTATIONS = tuple(4**power for power in range(1, 8))
"""Of columns that are rotated together."""
_WELL = {True: 1e-2, False: 0.1}
"""What no layer of 8 bits that is well exceeds, and what layers of fewer bits may: the rest is looked at closely."""
_TIMES, _MOST, _LEAST_TIMES = 8.0, 0.5, 1.5
"""Calibrated rounding has up to eight times the weights' error of rounding to nearest. Half of a weight is noise,
unless the format itself is as coarse."""


@dataclass(frozen=True)
class Mended:
    """A layer as it is to be.

    Attributes:
        kind: of the layer then; ``None`` for one that is not quantized.
        before: its relative squared error as the file has it; ``None`` where that cannot be read or is no number.
        after: the same of what it becomes.
        tensors: all of the layer's, by their names in the file.
    """

    how: How
    kind: Kind | None
    before: float | None
    after: float
    tensors: Tensors


def mended(
    contents: Contents, layer: QuantizedLayer, original: torch.Tensor, *, is_kept: bool, among_scaled: bool
) -> Mended | None:
    """What becomes of a quantized layer; ``None`` for one that is well.

    Args:
        original: its weight, [C_out, C_in, ...], in its own type.
        is_kept: whether the file says that the layer is not quantized.
        among_scaled: whether other layers of the file have scales, or had.

    Errors: CheckpointError where the original has another shape.
    """
    if without_ones(original.shape) != without_ones(layer.shape):
        shapes = f"{list(layer.shape)}, and {list(original.shape)} in the original"
        raise CheckpointError(
            f"the layer {layer.name} has the shape {shapes}", where=contents.path,
            remedy="Give the model that it was made from",
        )  # fmt: skip
    weight = original.float().reshape(layer.shape)
    if not bool(weight.isfinite().all()):
        raise CheckpointError(
            f"the layer {layer.name} of the original holds NaN or infinity itself", where=contents.path,
            remedy="Give an original that is whole",
        )  # fmt: skip
    whole = energy(weight)
    before = _error_now(layer, weight, whole)
    restored = Mended("restored from the original", None, before, 0.0, {layer.name + WEIGHT: original})
    if is_kept:
        return restored
    lost = lost_description(contents, layer)
    if lost is not None and layer.is_convolution:
        return restored  # its format has none
    kind = lost or layer.kind
    if lost is None and _is_well(layer, kind, weight, whole, before):
        # Among layers with scales one that was cast without is a kept layer that a tool has cast.
        return restored if among_scaled and kind in (kinds.FP8, kinds.FP8_E5M2) else None
    if kind == kinds.FP8 and among_scaled:
        kind = kind_of_scaled(contents) or kinds.V2
    for how, tensors, form in _candidates(contents, layer, kind, weight):
        if how == "quantized again" and before is not None and before <= _MOST:
            return None  # no noise: somebody has changed the weight, as a LoRA or smoothing does
        after = _relative(_decoded(contents, layer, tensors), weight, whole)
        # With its description a layer that somebody has changed is what it was.
        same = how == "described again" and after == before and before is not None and before <= _MOST
        if after is not None and (same or after <= _limit(form, layer, weight, whole)):
            return Mended(how, kind, before, after, tensors)
    return restored


def _error_now(layer: QuantizedLayer, weight: torch.Tensor, whole: float) -> float | None:
    if layer.decode is None:
        return None
    try:
        if layer.scale is not None:
            layer.scale()
        return _relative(layer.decode(), weight, whole)
    except CheckpointError:
        return None


def _relative(found: torch.Tensor | None, weight: torch.Tensor, whole: float) -> float | None:
    """|W_q - W|^2 / |W|^2; ``None`` where it is no number."""
    if found is None:
        return None
    error = energy(found.reshape(weight.shape) - weight) / max(whole, 1e-300)
    return error if math.isfinite(error) else None


def _is_well(layer: QuantizedLayer, kind: Kind, weight: torch.Tensor, whole: float, error: float | None) -> bool:
    if layer.decode is None and kind.family != "unknown":
        return True  # it cannot be told
    if error is None:
        return False
    forms = forms_of(layer, kind)
    bits = forms[0].bits if forms else 8
    return error <= _WELL[bits == 8] or error <= (_limit(forms[0], layer, weight, whole) if forms else _MOST)


def _limit(form: Form, layer: QuantizedLayer, weight: torch.Tensor, whole: float) -> float:
    """The largest error of a layer that is as good as its form is."""
    own = own_error(form, rotated(weight, layer.rotation), whole)
    return max(_LEAST_TIMES * own, min(_TIMES * own, _MOST))


def _candidates(
    contents: Contents, layer: QuantizedLayer, kind: Kind, weight: torch.Tensor
) -> Iterator[tuple[How, Tensors, Form]]:
    """What the layer can become in its own kind. All that stands beside it and is no scale stays."""
    assert contents.source is not None
    forms = forms_of(layer, kind)
    texts = descriptions(contents, layer, kind)
    ways = [(replace(layer, rotation=group), {layer.name + DESCRIPTION: text}) for text, group in texts] or [
        (layer, {})
    ]
    ways = [(each, text) for each, text in ways if _can_turn(each)]
    if not forms or not ways:
        return
    stored = contents.source.tensor(layer.codes)
    beside = {key: contents.source.tensor(key) for key in layer.side if not is_scale(key, layer.name)}

    def whole(codes: torch.Tensor, side: Tensors) -> Tensors:
        new = {key: value for key, value in side.items() if is_scale(key, layer.name) or kind != layer.kind}
        return {**new, **beside, layer.codes: codes}

    for each, text in ways:
        scales = {key: contents.source.tensor(key) for key in layer.side if is_scale(key, layer.name)}
        if text and scales:
            yield "described again", {**scales, **beside, **text, layer.codes: stored}, forms[0]
        turned = rotated(weight, each.rotation)
        for form in forms:
            yield "scales recomputed", {**whole(stored, rescaled(form, each, stored, turned)), **text}, form
    each, text = ways[0]
    codes, scale = quantized_again(forms[0], rotated(weight, each.rotation))
    side = forms[0].side_tensors_for(layer.name, scale, layer.shape, each.rotation)
    yield "quantized again", {**whole(codes, side), **text}, forms[0]


def _can_turn(layer: QuantizedLayer) -> bool:
    """Whether the weight can be rotated as the file says."""
    group = layer.rotation
    return group == 1 or (len(layer.shape) == 2 and group in ROTATIONS and layer.shape[1] % group == 0)


def _decoded(contents: Contents, layer: QuantizedLayer, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The weight as readers compute it; ``None`` for what they refuse."""
    codes = tensors[layer.codes]
    try:
        decoder = decode_layer(tensors, tensors.__getitem__, layer.name, tuple(codes.shape), contents.path)
    except CheckpointError:
        return None
    return decoder.dequantize(codes)
