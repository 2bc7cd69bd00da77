"""HSWQMeasureSensitivity: what each layer's rounding does to the model's output."""

from __future__ import annotations

import time
from typing import Any

from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import Statistics, check_same_model
from ..hswq_core.files.folders import writable_folder
from ..hswq_core.formats import FORMATS
from ..hswq_core.log import get_logger
from ..hswq_core.options import METHODS, ROUNDINGS, Method, QuantizeOptions, Rounding, check_choice
from ..hswq_core.planning.source_check import check_patches
from ..hswq_core.sensitivity.gradient import FEW_PROBES, FEW_VECTORS, VECTORS
from ..loader.calibrate import model_fingerprint
from ..loader.impact import measure_impacts
from ..loader.provenance import patches_of
from .common import CATEGORY, HSWQStats, progress_bar, statistics_of
from .inputs import checked
from .web_api import work_events

logger = get_logger(__name__)
_SECONDS_BETWEEN_SAVES = 60.0
"""A save writes the whole session, which takes seconds for a large model with rows."""
_PROBES = 8


class HSWQMeasureSensitivity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQMeasureSensitivity",
            display_name="HSWQ Measure Sensitivity",
            category=CATEGORY,
            description=(
                "Measures how much quantizing each layer changes the model's output, on inputs recorded during "
                "calibration. It finds the layers that matter far better than variance does. By gradients it takes "
                "about as long as 100 model calls."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The full-precision model that was calibrated."),
                HSWQStats.Input("stats", tooltip="Its statistics."),
                io.Combo.Input(
                    "mode",
                    options=list(FORMATS),
                    default="v2",
                    tooltip="The format to measure for.",
                ),
                io.Int.Input(
                    "probes",
                    default=_PROBES,
                    min=1,
                    max=32,
                    tooltip="How many recorded inputs to measure on. More are steadier and slower.",
                ),
                io.Combo.Input(
                    "rounding",
                    options=list(ROUNDINGS),
                    default="calibrated",
                    optional=True,
                    tooltip="The rounding that HSWQ Quantize will use.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="gradient",
                    optional=True,
                    tooltip=(
                        "gradient: all layers together, in minutes. exact: one after another, layers x probes model "
                        "calls; a cancelled measurement continues where it stopped."
                    ),
                ),
                io.AnyType.Input(
                    "after",
                    optional=True,
                    tooltip="Connect the sampled latent or the image, so that this node runs after the calibration.",
                ),
            ],
            outputs=[
                HSWQStats.Output(
                    display_name="stats", tooltip="The statistics with the measured impact of every layer."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        stats: Any,
        mode: str,
        probes: int,
        rounding: Rounding = "calibrated",
        method: Method = "gradient",
        after: Any = None,
    ) -> io.NodeOutput:
        purpose = QuantizeOptions(mode=mode, rounding=rounding).impact_purpose
        return io.NodeOutput(with_impacts(model, stats, purpose, probes, method, cls.hidden.unique_id))


def measured_stats(model: Any, stats: Any, purpose: str, node: str | None) -> Any:
    """The same with impacts. If there are none for any purpose, they are measured on few inputs, which is quick."""
    if statistics_of(stats).complete_impacts(purpose) is not None:
        return stats
    return with_impacts(model, stats, purpose, FEW_PROBES, "gradient", node, FEW_VECTORS)


def with_impacts(
    model: Any, stats: Any, purpose: str, probes: int, method: Method, node: str | None, vectors: int = VECTORS
) -> Any:
    """The statistics with impacts for a format and a rounding, those that are there already and the missing ones.

    Args:
        stats: a session, which keeps them, or statistics.
        purpose: the format and the rounding, as in "v2 calibrated".
        node: the page shows the progress on it.
        vectors: of the method by gradients.

    Errors: StatisticsError for statistics of another model, of other patches, or without inputs to measure on.
    """
    statistics = statistics_of(stats)
    statistics.check_not_empty()
    check_same_model(statistics, Statistics({}, fingerprint=model_fingerprint(model)))
    check_patches(patches_of(model), "the connected MODEL", statistics)
    mode, rounding = purpose.split()
    if isinstance(stats, CalibrationSession):
        writable_folder(stats.path.parent)  # before minutes of measuring
    layers = [name for name, layer in sorted(statistics.layers.items()) if purpose not in layer.impacts]
    if not layers:
        return stats
    logger.info("HSWQ: measuring the sensitivity of %d layers for %s", len(layers), purpose)
    found: dict[str, float] = {}

    def keep() -> Any:
        if not isinstance(stats, CalibrationSession):
            return statistics.with_impacts(found, purpose)
        stats.add_impacts(found, purpose)
        return stats

    measuring = measure_impacts(
        model,
        statistics,
        layers,
        form=FORMATS[mode].form,
        rounding=check_choice("rounding", rounding, ROUNDINGS),
        probes=probes,
        method=method,
        progress=work_events(node, progress_bar()),
        vectors=vectors,
    )
    saved = time.monotonic()
    try:
        for name, impact in measuring:
            found[name] = impact
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                keep()
                saved = time.monotonic()
    finally:
        result = keep()
    return result
