"""The plan: a value that says for every layer what happens to it and why. Node, CLI and report share it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from .. import __version__
from ..calibration.statistics import Statistics
from ..errors import PlanError, StatisticsError
from ..files.checkpoint import CheckpointReader, TensorInfo, is_float
from ..files.formats import FORMATS, Format
from ..files.layers import find_prefix
from ..fingerprint import Fingerprint
from .selection import select_kept

ROUNDINGS = ("nearest",)
_WEIGHT = ".weight"


@dataclass(frozen=True)
class LayerPlan:
    """One layer: its path in the diffusion model, its tensor in the file, what happens and why."""

    layer: str
    key: str
    info: TensorInfo
    quantize: bool
    reason: str
    sensitivity: float | None = None

    @property
    def stem(self) -> str:
        """The layer's name in the file: its key without ``.weight``."""
        return self.key[: -len(_WEIGHT)]

    @property
    def elements(self) -> int:
        return math.prod(self.info.shape)


@dataclass(frozen=True)
class QuantizationPlan:
    """Everything that determines the output file, apart from the weights themselves."""

    format: Format
    keep_ratio: float
    selection: str
    rounding: str
    prefix: str
    layers: tuple[LayerPlan, ...]
    source_fingerprint: Fingerprint
    statistics_digest: str

    @property
    def kept(self) -> list[LayerPlan]:
        return [layer for layer in self.layers if not layer.quantize]

    @property
    def quantized(self) -> list[LayerPlan]:
        return [layer for layer in self.layers if layer.quantize]

    def metadata(self) -> dict[str, str]:
        """What the output file says of itself, under ``hswq.*`` in its header."""
        return {
            "hswq.kind": "checkpoint",
            "hswq.format_version": "1",
            "hswq.mode": self.format.name,
            "hswq.keep_ratio": f"{self.keep_ratio:g}",
            "hswq.selection": self.selection,
            "hswq.rounding": self.rounding,
            "hswq.kept_layers": json.dumps([layer.layer for layer in self.kept]),
            "hswq.statistics_fingerprint": self.statistics_digest,
            "hswq.source_fingerprint": self.source_fingerprint.text,
            "hswq.tool_version": __version__,
        }


def make_plan(
    source: CheckpointReader,
    statistics: Statistics | None,
    *,
    mode: str,
    keep_ratio: float,
    selection: str = "variance",
    rounding: str = "nearest",
) -> QuantizationPlan:
    """Decide for every layer of the source's diffusion model.

    Errors: PlanError for options that make no plan, StatisticsError for statistics without a run or of another
    model, CheckpointError for a source without a diffusion model.
    """
    if mode not in FORMATS:
        raise PlanError(f"there is no mode {mode!r}", do=f"Choose one of: {', '.join(FORMATS)}")
    if rounding not in ROUNDINGS:
        raise PlanError(f"there is no rounding {rounding!r}", do=f"Choose one of: {', '.join(ROUNDINGS)}")
    form = FORMATS[mode]
    if statistics is not None and not statistics.layers:
        raise StatisticsError("the statistics hold no run", do="Run a KSampler with the calibrated model first")
    prefix = find_prefix(source, statistics.layers if statistics else None)
    weights = _layer_weights(source, prefix)
    if statistics is not None:
        _check_model(source, prefix, weights, statistics)
    fixed = {name: reason for name, info in weights.items() if (reason := _why_not(name, info, form, statistics))}
    candidates = [name for name in weights if name not in fixed]
    kept = select_kept(candidates, statistics, keep_ratio, selection)
    layers = []
    for name, info in sorted(weights.items()):
        reason = fixed.get(name) or (f"top {keep_ratio:g} by {selection}" if name in kept else "")
        measured = statistics.layers.get(name) if statistics else None
        layers.append(
            LayerPlan(
                layer=name,
                key=f"{prefix}{name}{_WEIGHT}",
                info=info,
                quantize=not reason,
                reason=reason or "below the cut",
                sensitivity=measured.sensitivity if measured else None,
            )
        )
    return QuantizationPlan(
        format=form,
        keep_ratio=keep_ratio,
        selection=selection,
        rounding=rounding,
        prefix=prefix,
        layers=tuple(layers),
        source_fingerprint=_fingerprint(source, prefix, weights),
        statistics_digest=statistics.digest() if statistics else "",
    )


def _layer_weights(source: CheckpointReader, prefix: str) -> dict[str, TensorInfo]:
    """The 2-D and 4-D weights under the prefix, by layer."""
    return {
        key[len(prefix) : -len(_WEIGHT)]: info
        for key, info in source.tensors.items()
        if key.startswith(prefix) and key.endswith(_WEIGHT) and len(info.shape) in (2, 4)
    }


def _why_not(name: str, info: TensorInfo, form: Format, statistics: Statistics | None) -> str:
    """The reason why a layer cannot be quantized, or nothing."""
    if not is_float(info.dtype):
        return f"already {info.dtype}"
    if len(info.shape) not in form.dimensions:
        return f"no {form.name} format for convolutions"
    if statistics is not None and name not in statistics.layers:
        return "never ran during calibration"
    return ""


def _check_model(source: CheckpointReader, prefix: str, weights: dict[str, TensorInfo], statistics: Statistics) -> None:
    remedy = "Choose the checkpoint that was calibrated, or calibrate this one"
    for name, layer in statistics.layers.items():
        info = weights.get(name)
        if info is None or info.shape[1] != layer.channels:
            have = "is not in this file" if info is None else f"takes {info.shape[1]} channels here, not {layer.channels}"
            raise StatisticsError(f"the statistics are of another model: layer {name} {have}", where=source.path, do=remedy)
    if statistics.fingerprint and not statistics.fingerprint.matches(_fingerprint(source, prefix, statistics.layers)):
        raise StatisticsError("the statistics are of another model: the weights differ", where=source.path, do=remedy)


def _fingerprint(source: CheckpointReader, prefix: str, layers: Iterable[str]) -> Fingerprint:
    return Fingerprint.of(list(layers), lambda name: source.element(f"{prefix}{name}{_WEIGHT}"))
