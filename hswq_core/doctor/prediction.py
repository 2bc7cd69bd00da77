"""A file's error predicted without running the model: impacts that were measured for one way of rounding, scaled.

An impact is quadratic in what rounding changes of a layer's output. So a layer that another tool has rounded has the
impact of the measured purpose, times its own output error over that of the purpose. Impacts of layers add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property

import torch

from ..calibration.statistics import LayerStatistics, Statistics
from ..formats import FORMATS
from ..options import ROUNDINGS, Purpose
from ..quantize_layer import quantize_layer
from ..rounding.rotation import rotated
from ..rounding.weight import scale_like
from .comparison import LayerError
from .output_error import output_error

_NEAR = math.log(2)
"""Impacts are scaled by no more: rounding a layer of SDXL again for a nearer one takes longer than all else."""


class Predictor:
    """Attributes: used: the purposes that predictions went by."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self.used: set[str] = set()

    @cached_property
    def _purposes(self) -> dict[str, Purpose]:
        """Those that were measured."""
        forms = {form.name: form for each in FORMATS.values() for form in each.forms}
        known = {
            str(Purpose(form, rounding)): Purpose(form, rounding) for form in forms.values() for rounding in ROUNDINGS
        }
        return {name: known[name] for name in self._statistics.purposes if name in known}

    def impact(self, layer: str, weight: torch.Tensor, error: float) -> float | None:
        """What a layer with this output error does to the model's output; ``None`` where nothing was measured.

        Goes by the purpose whose own output error is the nearest, or the first that is near enough.
        """
        measured = self._statistics.layers[layer]
        best: tuple[float, str, float] | None = None
        for name, purpose in self._by_likeness(error):
            if name not in measured.impacts or not purpose.form.holds(layer, tuple(weight.shape)):
                continue
            own = _own_error(weight, measured, purpose)
            if own > 0 and error > 0:
                distance = abs(math.log(error / own))
                if best is None or distance < best[0]:
                    best = (distance, name, measured.impacts[name] * error / own)
                if distance < _NEAR:
                    break
        if best is None:
            return None
        self.used.add(best[1])
        return best[2]

    def _by_likeness(self, error: float) -> list[tuple[str, Purpose]]:
        """The purposes, those first whose bits make about such an error: each more is a fourth of it."""
        bits = -math.log2(error) / 2 if error > 0 else 0.0
        return sorted(
            self._purposes.items(), key=lambda each: (each[1].rounding != "nearest", abs(each[1].form.bits - bits))
        )

    def total(self, errors: Iterable[LayerError], undecoded: Mapping[str, str]) -> float | None:
        """The model's error; ``None`` where a layer that changed has no impact."""
        impacts = [error.impact for error in errors]
        if undecoded or any(impact is None for impact in impacts):
            return None
        return sum(impact for impact in impacts if impact is not None)


def _own_error(weight: torch.Tensor, measured: LayerStatistics, purpose: Purpose) -> float:
    """The layer's output error when it is rounded as the purpose says."""
    form = purpose.form
    rounded = quantize_layer(weight, measured, form, purpose.rounding)
    found = form.grid.dequantize(rounded.codes, scale_like(weight, rounded.scale))
    if rounded.group > 1:
        found = rotated(found, rounded.group)
    return output_error(found.reshape(weight.shape).float() - weight, weight, measured)
