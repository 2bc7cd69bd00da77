"""The sensitivity of every layer, by the selection rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..calibration.statistics import Statistics
from ..errors import StatisticsError
from ..files.source import TensorSource
from ..formats import Form
from ..options import QuantizeOptions
from ..parallel import ordered_map
from ..progress import Progress
from ..quantize_layer import as_rotated, weight_problem
from .error import relative_output_error


def layer_sensitivities(
    layers: Sequence[str],
    key_of: Callable[[str], str],
    source: TensorSource,
    statistics: Statistics,
    form: Form,
    options: QuantizeOptions,
    progress: Progress,
) -> dict[str, float]:
    """Sensitivity by layer; larger is worse.

    ``variance`` is the model card's: the variance of the layer's output. ``error`` is the relative error of
    the layer's output under nearest rounding in the format, and reads every weight once. ``measured`` is the impact on
    the model's own output, as HSWQ Measure Sensitivity found it.

    Errors: CheckpointError for weights that are not finite, StatisticsError for layers that were not measured.
    """
    if options.selection == "variance":
        return {name: statistics.layers[name].sensitivity for name in layers}
    if options.selection == "measured":
        return _impacts(layers, statistics, options.impact_purpose)

    def error(name: str) -> float:
        weight, measured = source.tensor(key_of(name)), statistics.layers[name]
        importance = measured.of_columns(measured.importance, weight.shape)
        second_moment = measured.of_columns(measured.second_moment, weight.shape)
        try:
            if (turned := as_rotated(weight, measured, form)) is not None:
                weight, importance, second_moment = turned.weight, turned.importance, turned.second_moment
            return relative_output_error(weight, importance, second_moment, form.grid, scaling=form.scaling)
        except ValueError as problem:
            raise weight_problem(name, problem, source.path) from None

    found: dict[str, float] = {}
    for name, value in zip(layers, ordered_map(error, layers), strict=True):
        progress(len(found), len(layers))
        found[name] = value
    return found


def _impacts(layers: Sequence[str], statistics: Statistics, purpose: str) -> dict[str, float]:
    found = statistics.complete_impacts(purpose, layers)
    if found is not None:
        return found
    missing = sorted(set(layers) - statistics.impacts(purpose).keys())
    raise StatisticsError(
        f"the impact of {len(missing)} of {len(layers)} layers was not measured for {purpose} rounding",
        where=missing[0],
        remedy="Connect the MODEL to HSWQ Quantize, or run HSWQ Measure Sensitivity, or choose another selection",
    )
