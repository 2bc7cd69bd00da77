"""The plan: a value that says for every layer what happens to it and why. Node, CLI and report share it."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .. import __version__
from ..calibration.statistics import Statistics
from ..errors import PlanError, StatisticsError
from ..files.checkpoint import CheckpointReader, TensorInfo
from ..files.dtypes import is_float, nbytes_of
from ..files.formats import FORMATS, Format
from ..files.layers import WEIGHT, find_prefix, layer_weights
from ..files.writer import FileLayout
from ..fp8.rounding import ROUNDINGS
from ..fp8.weight import can_calibrate
from .damage import damage_of
from .layer import LayerPlan, cost_of_keeping, layout_of
from .selection import SELECTIONS, check_keep_ratio, cut_by_bytes, cut_by_ratio, parse_budget
from .source import check_model, fingerprint_of

SCALES = ("tensor", "channel")


@dataclass(frozen=True)
class QuantizationPlan:
    """Everything that determines the output file, apart from the weights themselves.

    ``layout`` is the file that will be written: every tensor's type and shape by its key.
    """

    format: Format
    keep_ratio: float | None
    budget: str
    selection: str
    rounding: str
    prefix: str
    layers: tuple[LayerPlan, ...]
    layout: Mapping[str, tuple[str, tuple[int, ...]]]
    source_metadata: Mapping[str, str]
    source_bytes: int
    source_unet_bytes: int
    source_fingerprint: str
    statistics_digest: str

    @property
    def kept(self) -> list[LayerPlan]:
        return [layer for layer in self.layers if not layer.quantize]

    @property
    def quantized(self) -> list[LayerPlan]:
        return [layer for layer in self.layers if layer.quantize]

    @property
    def scales(self) -> str:
        """What has a scale of its own: every ``tensor``, every output ``channel``, or nothing."""
        return ("channel" if self.format.channel_scales else "tensor") if self.format.scaled else ""

    @property
    def nbytes(self) -> int:
        """The exact size of the file that will be written."""
        return FileLayout(self.layout, self.metadata()).nbytes

    @property
    def unet_bytes(self) -> int:
        """The bytes of the diffusion model's tensors in that file."""
        return sum(nbytes_of(*spec) for key, spec in self.layout.items() if key.startswith(self.prefix))

    def metadata(self) -> dict[str, str]:
        """The output's header metadata: the source's, and what the file says of itself under ``hswq.*``."""
        return {
            **self.source_metadata,
            "hswq.kind": "checkpoint",
            "hswq.format_version": "1",
            "hswq.mode": self.format.name,
            "hswq.keep_ratio": "" if self.keep_ratio is None else f"{self.keep_ratio:g}",
            "hswq.budget": self.budget,
            "hswq.selection": self.selection,
            "hswq.rounding": self.rounding,
            "hswq.scales": self.scales,
            "hswq.kept_layers": json.dumps([layer.layer for layer in self.kept]),
            "hswq.statistics_fingerprint": self.statistics_digest,
            "hswq.source_fingerprint": self.source_fingerprint,
            "hswq.tool_version": __version__,
        }

    def as_dict(self) -> dict[str, object]:
        """The plan for JSON, every layer with its reason."""
        return {
            "mode": self.format.name,
            "keep_ratio": self.keep_ratio,
            "budget": self.budget,
            "selection": self.selection,
            "rounding": self.rounding,
            "scales": self.scales,
            "bytes": self.nbytes,
            "source_bytes": self.source_bytes,
            "unet_bytes": self.unet_bytes,
            "source_unet_bytes": self.source_unet_bytes,
            "kept_layers": len(self.kept),
            "quantized_layers": len(self.quantized),
            "layers": {
                layer.layer: {"quantize": layer.quantize, "reason": layer.reason, "damage": layer.damage}
                for layer in self.layers
            },
        }

    def __str__(self) -> str:
        lines = [f"{'quantize' if e.quantize else 'keep':<9}{e.layer}  ({e.reason})" for e in self.layers]
        lines.append(
            f"{self.format.name}: {self.nbytes:,} bytes of {self.source_bytes:,} "
            f"({self.nbytes / self.source_bytes:.1%}); {len(self.quantized)} layers in FP8, {len(self.kept)} kept"
        )
        return "\n".join(lines)


def make_plan(
    source: CheckpointReader,
    statistics: Statistics | None,
    *,
    mode: str,
    keep_ratio: float = 0.25,
    budget: str = "",
    selection: str = "variance",
    rounding: str = "nearest",
    scales: str = "tensor",
    force_keep: Sequence[str] = (),
    force_quantize: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> QuantizationPlan:
    """Decide for every layer of the source's diffusion model.

    Args:
        budget: the size the file may have ("3.2GB", or "57%" of the source); replaces the keep ratio unless empty.
        scales: whether a ``tensor`` has one scale, or every output ``channel`` its own (V2 alone).
        force_keep, force_quantize: patterns of layer names (``*`` and ``?``) that are decided beforehand.
        progress: called with layers done and layers in all, where weights must be read to decide.

    Errors: PlanError for options that make no plan, StatisticsError for statistics without a run or of another
    model, CheckpointError for a source without a diffusion model.
    """
    if mode not in FORMATS:
        raise PlanError(f"there is no mode {mode!r}", do=f"Choose one of: {', '.join(FORMATS)}")
    if rounding not in ROUNDINGS:
        raise PlanError(f"there is no rounding {rounding!r}", do=f"Choose one of: {', '.join(ROUNDINGS)}")
    if selection not in SELECTIONS:
        raise PlanError(f"there is no selection {selection!r}", do=f"Choose one of: {', '.join(SELECTIONS)}")
    if scales not in SCALES:
        raise PlanError(f"there are no scales by {scales!r}", do=f"Choose one of: {', '.join(SCALES)}")
    check_keep_ratio(keep_ratio)
    form = FORMATS[mode]
    if scales == "channel":
        if not form.per_channel:
            raise PlanError(f"{mode} has no scale for each channel", do="Choose v2, or scales by tensor")
        form = replace(form, channel_scales=True)
    if statistics is not None:
        statistics.check_not_empty()
    prefix = find_prefix(source, statistics.layers if statistics else None)
    weights = layer_weights(source, prefix)
    if statistics is not None:
        check_model(source, prefix, weights, statistics)

    if rounding == "calibrated":
        _check_rows(weights, statistics)

    # Reasons to keep, by layer; what is left is quantized.
    reasons = {name: why for name, info in weights.items() if (why := _why_not(name, info, form, statistics))}
    forced = {name for name in _matching(force_quantize, weights) if name not in reasons}
    reasons |= {name: "kept by pattern" for name in _matching(force_keep, weights) if name not in reasons}
    candidates = sorted(name for name in weights if name not in reasons and name not in forced)
    damage: dict[str, float] = {}
    if statistics is not None:
        damage = damage_of(candidates, lambda n: f"{prefix}{n}{WEIGHT}", source, statistics, form, selection, progress)
    elif budget or keep_ratio > 0:
        raise PlanError("choosing layers to keep needs statistics", do="Give statistics, or a keep ratio of 0")

    # The same for every plan of this source, and read from the disk: once is enough.
    source_unet_bytes = sum(info.nbytes for key, info in source.tensors.items() if key.startswith(prefix))
    source_fingerprint = fingerprint_of(source, prefix, weights).text
    statistics_digest = statistics.digest() if statistics else ""

    def plan_keeping(kept: set[str], why: str) -> QuantizationPlan:
        layers = []
        for name, info in sorted(weights.items()):
            reason = reasons.get(name) or (why if name in kept else "")
            default = "quantized by pattern" if name in forced else "below the cut"
            layers.append(
                LayerPlan(name, f"{prefix}{name}{WEIGHT}", info, not reason, reason or default, damage.get(name))
            )
        return QuantizationPlan(
            format=form,
            keep_ratio=None if budget else keep_ratio,
            budget=budget,
            selection=selection,
            rounding=rounding,
            prefix=prefix,
            layers=tuple(layers),
            layout=layout_of(source, form, layers),
            source_metadata=source.metadata,
            source_bytes=source.nbytes,
            source_unet_bytes=source_unet_bytes,
            source_fingerprint=source_fingerprint,
            statistics_digest=statistics_digest,
        )

    if not budget:
        return plan_keeping(cut_by_ratio(damage, keep_ratio), f"top {keep_ratio:g} by {selection}")
    allowed = parse_budget(budget, source.nbytes)
    smallest = plan_keeping(set(), "").nbytes
    if allowed < smallest:
        raise PlanError(
            f"the budget of {allowed:,} bytes is too small: with every layer in FP8 the file has {smallest:,}",
            where=source.path,
            do="Give a larger budget",
        )
    cost = {name: cost_of_keeping(name, weights[name], form) for name in candidates}
    kept = cut_by_bytes(damage, cost, allowed - smallest, per_byte=selection != "variance")
    return plan_keeping(kept, f"worth its bytes by {selection}")


def _matching(patterns: Sequence[str], names: Iterable[str]) -> set[str]:
    """The names that match any pattern. Errors: PlanError for a pattern that matches none, most likely mistyped."""
    found: set[str] = set()
    for pattern in patterns:
        matching = set(fnmatch.filter(names, pattern))
        if not matching:
            raise PlanError(f"no layer matches the pattern {pattern!r}", do="'inspect --json' lists the layers' names")
        found |= matching
    return found


def _why_not(name: str, info: TensorInfo, form: Format, statistics: Statistics | None) -> str:
    """The reason why a layer cannot be quantized, or nothing."""
    if not math.prod(info.shape):
        return "empty"
    if not is_float(info.dtype):
        return f"already {info.dtype}"
    if len(info.shape) not in form.dimensions:
        return f"no {form.name} format for convolutions"
    if statistics is not None and name not in statistics.layers:
        return "never ran during calibration"
    return ""


def _check_rows(weights: Mapping[str, TensorInfo], statistics: Statistics | None) -> None:
    layers = statistics.layers if statistics else {}
    if not any(name in layers and can_calibrate(info.shape, layers[name]) for name, info in weights.items()):
        raise StatisticsError(
            "calibrated rounding needs samples of the layers' inputs, and the statistics hold none",
            do="Calibrate with rows_per_layer above 0, or round to nearest",
        )
