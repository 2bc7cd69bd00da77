"""A preview from statistics alone: which layers a keep ratio keeps, and what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..calibration.coverage import coverage_lines
from ..calibration.statistics import Statistics
from ..options import MODEL_CARD, check_keep_ratio
from .selection import cut_by_ratio, ranked


@dataclass(frozen=True)
class PreviewLayer:
    """One layer: its sensitivity by the rule that ranks it, the bytes of its weight in FP8, and whether it is kept."""

    name: str
    sensitivity: float
    weights: int
    kept: bool


@dataclass(frozen=True)
class Preview:
    """The most sensitive layers first, ranked by measured impact where all have one, otherwise by variance."""

    selection: str
    keep_ratio: float
    layers: tuple[PreviewLayer, ...]
    statistics: Statistics

    @property
    def kept(self) -> int:
        return sum(layer.kept for layer in self.layers)

    @property
    def fp8_bytes(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def kept_bytes(self) -> int:
        """What keeping costs: a kept weight has two bytes where a quantized one has one."""
        return sum(layer.weights for layer in self.layers if layer.kept)

    def __str__(self) -> str:
        s = self.statistics
        lines = [
            f"{len(self.layers)} layers; {s.runs} runs, {s.samples} images, {s.steps} steps; "
            f"samplers: {', '.join(sorted(s.samplers)) or 'unknown'}",
            f"steps by noise level, from clean to pure noise: {' '.join(map(str, s.noise_levels))}",
            *coverage_lines(s),
            f"keep ratio {self.keep_ratio:g} by {self.selection}: {self.kept} layers kept; weights "
            f"{(self.fp8_bytes + self.kept_bytes) / 1e6:,.1f} MB, {self.kept_bytes / 1e6:,.1f} MB of it for keeping",
            "",
            f"{'':<6}{self.selection:>12}{'MB FP8':>9}  layer",
        ]
        lines += [
            f"{'keep' if e.kept else 'fp8':<6}{e.sensitivity:>12.3e}{e.weights / 1e6:>9.2f}  {e.name}"
            for e in self.layers
        ]
        return "\n".join(lines)


def preview(statistics: Statistics, keep_ratio: float) -> Preview:
    """Errors: StatisticsError for statistics without a run, PlanError for a keep ratio outside [0, 1]."""
    statistics.check_not_empty()
    check_keep_ratio(keep_ratio)
    purposes = (str(MODEL_CARD), *statistics.purposes)
    complete = (impacts for p in purposes if len(impacts := statistics.impacts(p)) == len(statistics.layers))
    impacts = next(complete, None)
    measured = impacts is not None
    sensitivity = impacts or {name: layer.sensitivity for name, layer in statistics.layers.items()}
    kept = cut_by_ratio(sensitivity, keep_ratio)
    layers = tuple(
        PreviewLayer(name, sensitivity[name], math.prod(statistics.layers[name].shape or (0,)), name in kept)
        for name in ranked(sensitivity)
    )
    return Preview("measured" if measured else "variance", keep_ratio, layers, statistics)
