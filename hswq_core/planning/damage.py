"""What quantizing each layer does, by the rule that selects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..calibration.statistics import Statistics
from ..errors import CheckpointError
from ..files.checkpoint import CheckpointReader
from ..files.formats import Format
from ..fp8.weight import relative_output_error
from ..parallel import ordered_map


def damage_of(
    layers: Sequence[str],
    key_of: Callable[[str], str],
    source: CheckpointReader,
    statistics: Statistics,
    form: Format,
    selection: str,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """Damage by layer; larger is worse.

    ``variance`` is the model card's: the variance of the layer's output. ``error`` is the relative error of
    the layer's output under the rounding that will be used, and reads every weight once.

    Errors: CheckpointError for weights that are not finite.
    """
    if selection == "variance":
        return {name: statistics.layers[name].sensitivity for name in layers}

    def error(name: str) -> float:
        measured = statistics.layers[name]
        weight = source.tensor(key_of(name))
        try:
            return relative_output_error(weight, measured.importance, measured.second_moment, scaled=form.scaled)
        except ValueError as problem:
            raise CheckpointError(f"layer {name}: {problem}", where=source.path, do="Repair the checkpoint") from None

    damage: dict[str, float] = {}
    for name, value in zip(layers, ordered_map(error, layers), strict=True):
        progress(len(damage), len(layers))
        damage[name] = value
    return damage
