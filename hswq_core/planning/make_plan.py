"""From a checkpoint, its statistics and the options to a plan, in four steps.

What can be quantized, what is forced by patterns, the ranking of the rest, and the cut.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..calibration.statistics import Statistics
from ..errors import CheckpointError, PlanError, StatisticsError
from ..files.formats import COMFY, COMFY_INT8_ROTATED, FORMATS, Format
from ..files.layers import WEIGHT, find_prefix, layer_weights, stray_tensor
from ..files.modelspec import true_metadata
from ..files.source import TensorInfo, TensorSource
from ..files.text_encoders import loses_its_scale, text_encoder_layers
from ..options import QuantizeOptions
from ..progress import Progress, no_progress
from ..sensitivity.rules import layer_sensitivities
from ..sizes import parse_budget
from .layer import LayerPlan, cost_of_keeping, layout_of
from .magnitudes import layers_beyond
from .plan import QuantizationPlan
from .selection import cut_by_bytes, cut_by_ratio
from .source_check import check_biases, check_kind, check_model, check_original, check_patches, fingerprint_of


def make_plan(
    source: TensorSource,
    statistics: Statistics | None,
    options: QuantizeOptions,
    *,
    progress: Progress = no_progress,
) -> QuantizationPlan:
    """Decide for every layer of the source's diffusion model.

    Args:
        progress: called with layers done and layers in all, where weights must be read to decide.

    Errors: PlanError for options that make no plan, StatisticsError for statistics without a run or of another
    model, CheckpointError for a source without a diffusion model.
    """
    if statistics is not None:
        statistics.check_not_empty()
    elif options.part != "text_encoders" and (options.budget or options.keep_ratio > 0):
        raise PlanError("choosing layers to keep needs statistics", remedy="Give statistics, or a keep ratio of 0")
    draft = _Draft(source, statistics, options)
    draft.rank(progress)
    return draft.cut()


class _Draft:
    """A plan in the making: what cannot be quantized, what is forced, the ranking of the rest, the cut."""

    def __init__(self, source: TensorSource, statistics: Statistics | None, options: QuantizeOptions) -> None:
        self._source, self._statistics, self._options = source, statistics, options
        self._form = format_of(options)
        alone = options.part == "text_encoders"
        self._texts = {} if options.part == "unet" else text_encoder_layers(source, alone=alone)
        if options.part != "unet" and not self._texts:
            raise CheckpointError(
                "there is no text encoder in this file", where=source.path, remedy="Choose another part"
            )
        self._prefix = find_prefix(source, statistics.layers if statistics else None)
        self._weights = {} if alone else layer_weights(source, self._prefix)
        check_original(source, self._weights)
        if not alone:
            self._check(source, statistics)
        if options.rounding == "calibrated":
            _check_rows(self._weights, statistics, "calibrated rounding needs", "round to nearest")
        if options.rotate:
            _check_rows(self._weights, statistics, "choosing what to rotate needs", "leave the inputs as they are")
        self._clipped: set[str] = set()
        if self._form.scaling == "none":
            layers = [*_not_empty(self._weights), *_not_empty(self._texts)]
            self._clipped = layers_beyond(source, layers, self._key, self._form.grid.largest)
        # Reasons to keep, by layer; what is left is quantized.
        self._reasons = {name: why for name, info in self._weights.items() if (why := self._why_not(name, info))}
        forced = matching(options.force_quantize, self._weights)
        kept = matching(options.force_keep, self._weights)
        self._forced = forced - self._reasons.keys()
        self._reasons |= dict.fromkeys(kept - self._reasons.keys(), "kept by pattern")
        self._sensitivity: dict[str, float] = {}
        # The same for every cut, and read from the disk: once is enough.
        self._source_fingerprint = fingerprint_of(source, self._prefix, _not_empty(self._weights)).digest
        self._statistics_digest = statistics.digest() if statistics else ""
        self._base_metadata = true_metadata(source, self._prefix, self._form.name)
        self._other_bytes = self._bytes_of_no_layer()

    def _check(self, source: TensorSource, statistics: Statistics | None) -> None:
        """Whether this is a diffusion model, and the one that was calibrated."""
        if statistics is None:
            check_kind(source, self._prefix)
            check_biases(source, self._prefix, self._weights)
            return
        check_patches(source.patches, source.path, statistics)
        check_model(source, self._prefix, self._weights, statistics)
        check_biases(source, self._prefix, {n: i for n, i in self._weights.items() if n in statistics.layers})

    def rank(self, progress: Progress) -> None:
        """Find the sensitivity of the layers that are neither kept nor forced already."""
        if self._statistics is None:
            return
        candidates = sorted(self._weights.keys() - self._reasons.keys() - self._forced)
        self._sensitivity = layer_sensitivities(
            candidates, self._key, self._source, self._statistics, self._form, self._options, progress
        )

    def cut(self) -> QuantizationPlan:
        """Keep the most sensitive layers, by count or by bytes."""
        options = self._options
        if not options.budget:
            kept = cut_by_ratio(self._sensitivity, options.keep_ratio)
            return self._keeping(kept, f"top {options.keep_ratio:g} by {options.selection}")
        allowed = parse_budget(options.budget, self._source.nbytes)
        least = self._keeping(set(), "")
        smallest = least.nbytes
        if allowed < smallest:
            # The budget stands in the file, too: the least is that of a file which names itself as its budget.
            possible = replace(least, options=replace(options, budget=str(smallest))).nbytes
            raise PlanError(
                f"the budget of {allowed:,} bytes is too small: with every layer quantized the file has {possible:,}, "
                f"of which {possible - least.unet_bytes:,} are not the diffusion model",
                where=self._source.path,
                remedy="Give a larger budget",
            )
        cost = {name: cost_of_keeping(name, self._weights[name], self._form) for name in self._sensitivity}
        kept = cut_by_bytes(self._sensitivity, cost, allowed - smallest, per_byte=options.selection != "variance")
        return self._keeping(kept, f"worth its bytes by {options.selection}")

    def _keeping(self, kept: set[str], why: str) -> QuantizationPlan:
        layers = []
        for name, info in sorted(self._weights.items()):
            reason = self._reasons.get(name) or (why if name in kept else "")
            default = "quantized by pattern" if name in self._forced else "below the cut"
            sensitivity = self._sensitivity.get(name)
            layers.append(LayerPlan(name, self._key(name), info, not reason, reason or default, sensitivity))
        for name, info in sorted(self._texts.items()):
            reason = self._why_not(name, info)
            layers.append(LayerPlan(name, self._key(name), info, not reason, reason or "text encoder, by its weights"))
        return QuantizationPlan(
            options=self._options,
            format=self._form,
            prefix=self._prefix,
            layers=tuple(layers),
            layout=layout_of(self._source, self._form, layers),
            source=self._source.identity,
            base_metadata=self._base_metadata,
            source_unet_bytes=sum(
                info.nbytes for key, info in self._source.tensors.items() if key.startswith(self._prefix)
            ),
            other_bytes=self._other_bytes,
            source_fingerprint=self._source_fingerprint,
            source_patches=self._source.patches,
            statistics_digest=self._statistics_digest,
        )

    def _why_not(self, name: str, info: TensorInfo) -> str:
        """The reason why a layer cannot be quantized, or nothing."""
        if not math.prod(info.shape):
            return "empty"
        if name in self._texts:
            if self._form is COMFY and loses_its_scale(name):
                return "loses its scale in ComfyUI's own loaders"
        elif len(info.shape) not in self._form.dimensions:
            return f"no {self._form.name} format for convolutions"
        elif self._statistics is None and len(info.shape) == 3:
            return "may be no convolution: calibration tells"
        elif self._statistics is not None and name not in self._statistics.layers:
            return "never ran during calibration" if self._is_a_layer(name) else "no Linear layer or convolution"
        if stray := stray_tensor(self._source.tensors, self._key(name).removesuffix(WEIGHT)):
            return f"has a tensor {stray} that would be taken for its scale"
        if name in self._clipped:
            return f"holds weights beyond {self._form.grid.largest:g}"
        return ""

    def _bytes_of_no_layer(self) -> int:
        """The bytes of the diffusion model's matrices that belong to no layer."""
        layers = {self._key(name) for name in self._weights}
        matrices = {key: info for key, info in self._source.tensors.items() if len(info.shape) > 1} if layers else {}
        return sum(i.nbytes for key, i in matrices.items() if key.startswith(self._prefix) and key not in layers)

    def _is_a_layer(self, name: str) -> bool:
        """Whether the calibrated model had a layer of this name, as far as its statistics tell."""
        assert self._statistics is not None
        model = self._statistics.fingerprint
        return model is None or model.legacy or name in model.layers

    def _key(self, layer: str) -> str:
        return layer + WEIGHT if layer in self._texts else f"{self._prefix}{layer}{WEIGHT}"


def _not_empty(weights: Mapping[str, TensorInfo]) -> list[str]:
    return [name for name, info in weights.items() if math.prod(info.shape)]


def format_of(options: QuantizeOptions) -> Format:
    """The format that is written, with the scales that the options ask for."""
    form = FORMATS[options.mode]
    if options.rotate:
        return COMFY_INT8_ROTATED
    return replace(form, scaling="channel") if options.scales == "channel" else form


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


def _check_rows(weights: Mapping[str, TensorInfo], statistics: Statistics | None, what: str, otherwise: str) -> None:
    layers = statistics.layers if statistics else {}
    if not any(name in layers and layers[name].has_rows_for(info.shape) for name, info in weights.items()):
        raise StatisticsError(
            f"{what} samples of the layers' inputs, and the statistics hold none",
            remedy=f"Calibrate with rows_per_layer above 0, or {otherwise}",
        )
