"""The first step of a plan: which layers can be quantized at all, which are decided by patterns, which are open."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import CheckpointError, PlanError, StatisticsError
from ..files.layers import WEIGHT
from ..files.source import TensorInfo, TensorSource
from ..files.text_encoders import text_encoder_layers
from ..formats import FORMATS, Form, Format
from ..formats.stored_layer import stray_tensor
from ..options import QuantizeOptions
from .magnitudes import layers_beyond
from .matched_source import MatchedSource


@dataclass(frozen=True)
class Candidates:
    """The layers of a source before any is chosen.

    Attributes:
        matched: the source; its ``weights`` are the layers of the diffusion model.
        texts: layers of the text encoders, by their name in the file.
        kept: why a layer stays as it is, by layer.
        forced: layers that are quantized by pattern.
        form: what quantized layers are stored as; where each has its own, the smallest.
    """

    matched: MatchedSource
    texts: Mapping[str, TensorInfo]
    kept: Mapping[str, str]
    forced: frozenset[str]
    form: Form

    @property
    def open(self) -> list[str]:
        """The layers that a ranking decides on."""
        return sorted(self.matched.weights.keys() - self.kept.keys() - self.forced)

    def key(self, layer: str) -> str:
        """The name of a layer's weight in the source."""
        return layer + WEIGHT if layer in self.texts else self.matched.key(layer)


def find_candidates(matched: MatchedSource, options: QuantizeOptions) -> Candidates:
    """Errors: CheckpointError when the part to quantize is not there, PlanError for a pattern that matches no layer,
    StatisticsError where rows are needed and there are none.
    """
    target = FORMATS[options.mode]
    texts = texts_of(matched.source, options)
    if options.part == "text_encoders":
        matched = matched.without_layers()
    if options.rounding == "calibrated":
        _check_rows(matched, "calibrated rounding needs", "round to nearest")
    if options.rotate:
        _check_rows(matched, "choosing what to rotate needs", "leave the inputs as they are")
    form = target.form_for(options.scales, rotate=options.rotate)
    found = Candidates(matched, texts, {}, frozenset(), form)
    kept = _that_cannot_be_quantized(found, target)
    by_pattern = matching(options.force_keep, matched.weights)
    forced = matching(options.force_quantize, matched.weights) - kept.keys()
    patterned = dict.fromkeys(by_pattern - kept.keys(), "kept by pattern")
    return Candidates(matched, texts, kept | patterned, frozenset(forced), form)


def texts_of(source: TensorSource, options: QuantizeOptions) -> dict[str, TensorInfo]:
    """The layers of text encoders that the options ask for. Errors: CheckpointError when there are none."""
    if options.part == "unet":
        return {}
    found = text_encoder_layers(source, alone=options.part == "text_encoders")
    if not found:
        raise CheckpointError("there is no text encoder in this file", where=source.path, remedy="Choose another part")
    return found


def matching(patterns: Sequence[str], names: Iterable[str]) -> set[str]:
    """The names that match any pattern. Errors: PlanError for a pattern that matches none, most likely mistyped."""
    found: set[str] = set()
    for pattern in patterns:
        # Not fnmatch.filter, which takes "A" for "a" on Windows.
        matching = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            raise PlanError(
                f"no layer matches the pattern {pattern!r}", remedy="'inspect --json' lists the layers' names"
            )
        found |= matching
    return found


def _that_cannot_be_quantized(found: Candidates, target: Format) -> dict[str, str]:
    """The reason, by layer, of the diffusion model and of the text encoders."""
    source = found.matched.source
    reasons = {
        name: why
        for name, info in found.matched.weights.items()
        if (why := _why_not_a_layer(found, target, name, info))
    }
    reasons |= {
        name: "loses its scale in ComfyUI's own loaders"
        for name, info in found.texts.items()
        if math.prod(info.shape) and target.drops_scale(name)
    }
    layers = {**found.matched.weights, **found.texts}
    for name, info in layers.items():
        if not math.prod(info.shape):
            reasons[name] = "empty"
        elif name not in reasons and (stray := stray_tensor(source.tensors, found.key(name).removesuffix(WEIGHT))):
            reasons[name] = f"has a tensor {stray} that would be taken for its scale"
    if found.form.scaling == "none":
        filled = [name for name, info in layers.items() if math.prod(info.shape)]
        largest = found.form.grid.largest
        beyond = layers_beyond(source, filled, found.key, largest)
        reasons |= dict.fromkeys(beyond - reasons.keys(), f"holds weights beyond {largest:g}")
    return reasons


def _why_not_a_layer(found: Candidates, target: Format, name: str, info: TensorInfo) -> str:
    """The reason why a tensor of the diffusion model is not a layer that can be quantized, or nothing."""
    statistics = found.matched.statistics
    if len(info.shape) not in target.dimensions:
        return f"no {target.name} format for convolutions"
    if statistics is None:
        return "may be no convolution: calibration tells" if len(info.shape) == 3 else ""
    if name in statistics.layers:
        return ""
    model = statistics.fingerprint
    is_layer = model is None or name in model.layers
    return "never ran during calibration" if is_layer else "no Linear layer or convolution"


def _check_rows(matched: MatchedSource, what: str, otherwise: str) -> None:
    layers = matched.statistics.layers if matched.statistics else {}
    if not any(name in layers and layers[name].has_rows_for(info.shape) for name, info in matched.weights.items()):
        raise StatisticsError(
            f"{what} samples of the layers' inputs, and the statistics hold none",
            remedy=f"Calibrate with rows_per_layer above 0, or {otherwise}",
        )
