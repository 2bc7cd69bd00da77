"""Predicted error over size, for a chart: where impacts were measured for what is to be written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .bits_curve import BitsCurve, steps_of
from .plan import QuantizationPlan

_POINTS = 200


@dataclass(frozen=True)
class ErrorCurve:
    """Bytes and predicted errors of the files that can be had, the smallest first; what is planned.

    ``card_bytes`` and ``card_error`` are those of the model card's file, where its impacts were measured.
    """

    mode: str
    sizes: tuple[int, ...]
    errors: tuple[float, ...]
    source_bytes: int
    planned_bytes: int
    planned_error: float
    layers_by_form: Mapping[str, int]
    card_bytes: int | None
    card_error: float | None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def error_curve(plan: QuantizationPlan, curve: BitsCurve) -> ErrorCurve:
    """What is planned, and what else could be had."""
    steps = steps_of(curve, _POINTS)
    return ErrorCurve(
        mode=plan.format.name,
        sizes=tuple(curve.sizes[step] for step in steps),
        errors=tuple(curve.errors[step] for step in steps),
        source_bytes=plan.source.nbytes,
        planned_bytes=plan.nbytes,
        planned_error=plan.predicted_error or 0.0,
        layers_by_form=plan.layers_by_form,
        card_bytes=plan.card.nbytes if plan.card else None,
        card_error=plan.card.predicted_error if plan.card else None,
    )
