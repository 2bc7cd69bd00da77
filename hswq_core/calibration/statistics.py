"""Calibration statistics: exact sums per layer, added up over runs and machines."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..errors import StatisticsError
from ..fingerprint import Fingerprint
from .model_inputs import ModelInput, evenly_spaced, join_inputs
from .rows import MergedRows, Rows, all_finite, tensor_of, width_of

NOISE_BINS = 10


@dataclass(frozen=True)
class LayerStatistics:
    """The sums of one layer: ``input_sums`` [3, C_in] = sum |x|, x, x^2; ``output_sums`` [3] = count, sum y, y^2.

    ``rows`` [R, K] is a uniform sample of what the flattened weight [C_out, K] is multiplied with; ``impacts`` the
    relative error of the model's output when this layer alone is quantized, by purpose ("v2 calibrated"), where it
    was measured; ``shape`` that of the weight, where it is known.
    """

    input_rows: int
    input_sums: torch.Tensor
    output_sums: torch.Tensor
    rows: Rows | None = None
    impacts: Mapping[str, float] = field(default_factory=dict)
    shape: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        return self.input_sums.shape[1]

    @property
    def importance(self) -> torch.Tensor:
        """E|x| per input channel, float64 [C_in]."""
        return self.input_sums[0] / self.input_rows

    @property
    def mean(self) -> torch.Tensor:
        """E[x] per input channel, float64 [C_in]."""
        return self.input_sums[1] / self.input_rows

    @property
    def second_moment(self) -> torch.Tensor:
        """E[x^2] per input channel, float64 [C_in]."""
        return self.input_sums[2] / self.input_rows

    @property
    def sensitivity(self) -> float:
        """The variance of all output elements, E[y^2] - E[y]^2."""
        count, total, squares = self.output_sums.tolist()
        return max(0.0, squares / count - (total / count) ** 2)

    def of_columns(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Values by input channel as values by channel of the weight: the mean over groups of a grouped convolution."""
        return values if shape[1] == self.channels else values.unflatten(0, (-1, shape[1])).mean(0)

    def has_rows_for(self, shape: Sequence[int]) -> bool:
        """Whether there are input rows of the width of a weight of this shape."""
        return self.rows is not None and len(self.rows) > 0 and self.rows.shape[1] == math.prod(shape[1:])


@dataclass(frozen=True)
class Statistics:
    """What calibration measured of one model. A value: adding two gives a third.

    ``partial_runs`` are those that handed their latent on to another model or took it over from one, as the experts of
    Wan 2.2 do; ``noise_levels`` counts steps by tenths of the schedule, from clean to pure noise; ``inputs`` are some
    of the model's own; ``left_out`` counts the runs that were measured but not added, by reason. ``source`` is the file
    that the model was loaded from ("LIST/NAME"), where it is known; ``patches`` a digest of what was put on top of its
    weights (LoRA, merges), empty for nothing. ``never_ran`` are the model's layers that no run has called, with their
    share of the weights of all its layers.
    """

    layers: Mapping[str, LayerStatistics]
    runs: int = 0
    samples: int = 0
    steps: int = 0
    fingerprint: Fingerprint | None = None
    partial_runs: int = 0
    samplers: frozenset[str] = field(default_factory=frozenset)
    noise_levels: tuple[int, ...] = (0,) * NOISE_BINS
    inputs: tuple[ModelInput, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    patches: str = ""
    never_ran: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Statistics) -> Statistics:
        """The exact statistics of both together. Errors: StatisticsError when they are of different models."""
        left_out = dict(Counter(self.left_out) + Counter(other.left_out))
        if not self.layers or not other.layers:
            return replace(other if not self.layers else self, left_out=left_out)
        check_same_model(self, other)
        merged_rows: dict[tuple[int, int], Rows] = {}
        layers = {**self.layers, **other.layers}
        for name in self.layers.keys() & other.layers.keys():
            layers[name] = _add(self.layers[name], other.layers[name], merged_rows)
        return Statistics(
            layers=layers,
            runs=self.runs + other.runs,
            samples=self.samples + other.samples,
            steps=self.steps + other.steps,
            fingerprint=self.fingerprint or other.fingerprint,
            partial_runs=self.partial_runs + other.partial_runs,
            samplers=self.samplers | other.samplers,
            noise_levels=tuple(a + b for a, b in zip(self.noise_levels, other.noise_levels, strict=True)),
            inputs=join_inputs(self.inputs, other.inputs, self.runs + other.runs),
            left_out=left_out,
            source=self.source or other.source,
            patches=self.patches,
            never_ran={k: v for k, v in {**self.never_ran, **other.never_ran}.items() if k not in layers},
        )

    def check_not_empty(self) -> None:
        """Errors: StatisticsError when nothing was measured yet."""
        if not self.layers:
            reasons = "".join(f"; {count} left out: {why}" for why, count in self.left_out.items())
            raise StatisticsError(
                f"the statistics hold no run{reasons}", remedy="Run a KSampler with the calibrated model first"
            )

    def probes(self, count: int) -> list[ModelInput]:
        """Up to ``count`` of the recorded inputs, evenly spaced over the noise levels."""
        return evenly_spaced(self.inputs, count)

    @property
    def purposes(self) -> tuple[str, ...]:
        """What impacts were measured for: a format and a rounding, as in "v2 calibrated"."""
        return tuple(sorted({purpose for layer in self.layers.values() for purpose in layer.impacts}))

    def impacts(self, purpose: str) -> dict[str, float]:
        """The impacts measured for a purpose, by layer."""
        return {name: e.impacts[purpose] for name, e in self.layers.items() if purpose in e.impacts}

    def complete_impacts(self, purpose: str, layers: Iterable[str] | None = None) -> dict[str, float] | None:
        """Impacts of all layers: those for the purpose, or else for another, as what matters in one format does in all.

        Args:
            layers: which must have one; all if not given.
        """
        wanted = list(self.layers if layers is None else layers)
        for measured_for in (purpose, *self.purposes):
            impacts = self.impacts(measured_for)
            if all(name in impacts for name in wanted):
                return {name: impacts[name] for name in wanted}
        return None

    def with_impacts(self, impacts: Mapping[str, float], purpose: str) -> Statistics:
        """The same statistics with some layers' measured impacts; those for other purposes stay."""
        layers = {
            name: replace(layer, impacts={**layer.impacts, purpose: impacts[name]}) if name in impacts else layer
            for name, layer in self.layers.items()
        }
        return replace(self, layers=layers)

    def not_finite(self) -> str:
        """The first layer whose sums or rows hold NaN or infinity; empty when all are finite."""
        for name, layer in self.layers.items():
            sums = [layer.input_sums, layer.output_sums]
            if layer.rows is not None:
                sums.append(tensor_of(layer.rows))
            if not all(map(all_finite, sums)):
                return name
        return ""

    def digest(self) -> str:
        """A short hash of the sums, for the metadata of files made from them."""
        hashed = hashlib.sha256()
        for name in sorted(self.layers):
            layer = self.layers[name]
            hashed.update(name.encode("utf-8"))
            # Rounded as the file stores them, so that it is the same before and after a save.
            for values in (layer.importance, layer.second_moment, layer.mean):
                hashed.update(values.float().numpy().tobytes())
        return hashed.hexdigest()[:16]


def merge(parts: Iterable[Statistics]) -> Statistics:
    """The sum of all parts, exact. Errors: StatisticsError when they are of different models."""
    total = Statistics(layers={})
    for part in parts:
        total = total + part
    return total


def check_same_model(a: Statistics, b: Statistics) -> None:
    """Errors: StatisticsError when the two were measured on different models."""
    if a.fingerprint and b.fingerprint and not a.fingerprint.matches(b.fingerprint):
        raise StatisticsError("the statistics are of different models", remedy="Merge only sessions of one model")
    if a.layers and b.layers and a.patches != b.patches:
        raise StatisticsError(
            "the statistics are of one model with different patches (LoRA or merges) on top",
            remedy="Use one session for each combination",
        )
    for name in a.layers.keys() & b.layers.keys():
        if a.layers[name].channels != b.layers[name].channels:
            raise StatisticsError(
                f"the statistics are of different models: {a.layers[name].channels} and "
                f"{b.layers[name].channels} input channels",
                where=name,
                remedy="Merge only sessions of one model",
            )


def _add(a: LayerStatistics, b: LayerStatistics, merged_rows: dict[tuple[int, int], Rows]) -> LayerStatistics:
    """The exact sum; layers that shared their rows in both parts share them in the sum."""
    rows = a.rows if b.rows is None else b.rows
    if a.rows is not None and b.rows is not None:
        pair = (id(a.rows), id(b.rows))
        if pair not in merged_rows:
            merged_rows[pair] = _merge_rows(a.rows, b.rows, a.input_rows, b.input_rows)
        rows = merged_rows[pair]
    return LayerStatistics(
        a.input_rows + b.input_rows,
        a.input_sums + b.input_sums,
        a.output_sums + b.output_sums,
        rows,
        {**b.impacts, **a.impacts},
        a.shape or b.shape,
    )


def _merge_rows(a: Rows, b: Rows, seen_a: int, seen_b: int) -> Rows:
    """A uniform sample of the union, computed when it is needed."""
    if width_of(a) != width_of(b):  # a session begun before patches were sampled
        return a if width_of(a) > width_of(b) else b
    return MergedRows.of(a, b, seen_a, seen_b)
