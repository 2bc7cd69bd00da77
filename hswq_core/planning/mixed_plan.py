"""The plan of a format in which every layer has the bits that pay."""

from __future__ import annotations

from ..errors import PlanError
from ..options import QuantizeOptions, parse_target
from .bits import first_steps, knee, steps_to_error, within_bytes
from .bits_curve import BitsCurve, with_choices
from .candidates import Candidates
from .least_plan import bytes_above
from .plan import QuantizationPlan


def plan_bits(curve: BitsCurve, found: Candidates, options: QuantizeOptions) -> QuantizationPlan:
    """What the options choose on a curve. Errors: PlanError for a budget below the smallest file."""
    plan = _chosen(curve, found, options)
    if not plan.quantized:
        raise PlanError(
            f"nothing would be quantized: {'the budget' if options.budget else 'the target'} asks for the original",
            where=found.matched.source.path,
            remedy="Give a smaller budget, or a larger target",
        )
    return plan


def _chosen(curve: BitsCurve, found: Candidates, options: QuantizeOptions) -> QuantizationPlan:
    least, path = curve.least, curve.path
    if options.budget:
        return _within_budget(curve, found)
    if options.target:
        count = steps_to_error(curve.errors, parse_target(options.target))
        return with_choices(least, found, first_steps(path, count), f"for a predicted error of {options.target}")
    count = knee(curve.sizes, curve.errors)
    return with_choices(least, found, first_steps(path, count), "at the knee of error over size")


def _within_budget(curve: BitsCurve, found: Candidates) -> QuantizationPlan:
    available = allowed = bytes_above(curve.least, found.matched.source)
    while True:
        plan = with_choices(curve.least, found, within_bytes(curve.path, available), "worth its bytes")
        # The sizes of layers leave out that numbers in the header have more digits in a larger file.
        over = plan.nbytes - (curve.least.nbytes + allowed)
        if over <= 0:
            return plan
        available -= over
