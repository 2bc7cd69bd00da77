"""The sensitivity of every layer, by the selection rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..calibration.statistics import Statistics
from ..errors import StatisticsError
from ..files.source import TensorSource
from ..formats import FORMATS, Form
from ..options import Purpose, QuantizeOptions
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
        return _impacts(layers, statistics, options)

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


def has_impacts(statistics: Statistics, options: QuantizeOptions) -> bool:
    """Whether all layers have the measured impacts that these options need."""
    if FORMATS[options.mode].menu:
        return not any(layers_without_impact(statistics, purpose) for purpose in options.purposes)
    return statistics.complete_impacts(str(options.purposes[0])) is not None


def layers_without_impact(statistics: Statistics, purpose: Purpose) -> set[str]:
    """The layers that can have a form, and were not measured for it."""
    return {
        name
        for name, layer in statistics.layers.items()
        if str(purpose) not in layer.impacts and purpose.form.holds(name, layer.shape)
    }


def predicted_error(layers: Sequence[str], statistics: Statistics, options: QuantizeOptions) -> float | None:
    """The relative squared error of the model's output when these layers are quantized, as impacts add up.

    ``None`` where not all of them were measured for just this, or nothing was.
    """
    impacts = statistics.impacts(str(options.purposes[0]))
    if not impacts or not all(name in impacts for name in layers):
        return None
    return sum(impacts[name] for name in layers)


def impacts_by_form(
    layers: Mapping[str, tuple[int, ...]], statistics: Statistics, options: QuantizeOptions
) -> dict[Form, dict[str, float]]:
    """The measured impacts of layers for every form of a format that can hold them.

    Args:
        layers: the shapes of their weights.

    Errors: StatisticsError for what was not measured.
    """
    found: dict[Form, dict[str, float]] = {}
    for purpose in options.purposes:
        held = [name for name, shape in layers.items() if purpose.form.holds(name, shape)]
        measured = statistics.impacts(str(purpose))
        _check_measured(held, measured, purpose)
        found[purpose.form] = {name: measured[name] for name in held}
    return found


def _impacts(layers: Sequence[str], statistics: Statistics, options: QuantizeOptions) -> dict[str, float]:
    purpose = options.purposes[0]
    found = statistics.complete_impacts(str(purpose), layers)
    _check_measured(layers, statistics.impacts(str(purpose)) if found is None else found, purpose)
    assert found is not None
    return found


def _check_measured(layers: Sequence[str], impacts: Mapping[str, float], purpose: Purpose) -> None:
    missing = sorted(set(layers) - impacts.keys())
    if missing:
        raise StatisticsError(
            f"the impact of {len(missing)} of {len(layers)} layers was not measured for {purpose} rounding",
            where=missing[0],
            remedy="Connect the MODEL to HSWQ Quantize, run HSWQ Measure Sensitivity, or choose another selection: "
            "variance needs no measuring",
        )
