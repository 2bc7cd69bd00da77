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
from ..hswq_core.options import METHODS, ROUNDINGS, Method, QuantizeOptions, Rounding
from ..hswq_core.planning.source_check import check_patches
from ..hswq_core.sensitivity.gradient import FEW_PROBES, FEW_VECTORS, VECTORS
from ..hswq_core.sensitivity.rules import has_impacts
from ..loader.calibrate import model_fingerprint
from ..loader.impact import measure_impacts
from ..loader.provenance import patches_of
from .common import CATEGORY, HSWQStats, progress_bar, statistics_of
from .events import work_events
from .inputs import checked

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
        options = QuantizeOptions(mode=mode, rounding=rounding)
        return io.NodeOutput(with_impacts(model, stats, options, probes, method, cls.hidden.unique_id))


def measured_stats(model: Any, stats: Any, options: QuantizeOptions, node: str | None) -> Any:
    """The same with the impacts that these options need. What is missing is measured on few inputs, which is quick."""
    if has_impacts(statistics_of(stats), options):
        return stats
    return with_impacts(model, stats, options, FEW_PROBES, "gradient", node, FEW_VECTORS)


def with_impacts(
    model: Any,
    stats: Any,
    options: QuantizeOptions,
    probes: int,
    method: Method,
    node: str | None,
    vectors: int = VECTORS,
) -> Any:
    """The statistics with impacts for the forms of a format and a rounding: those that are there, and the missing ones.

    Args:
        stats: a session, which keeps them, or statistics.
        options: the format and the rounding.
        node: the page shows the progress on it.
        vectors: of the method by gradients.

    Errors: StatisticsError for statistics of another model, of other patches, or without inputs to measure on.
    """
    statistics = statistics_of(stats)
    statistics.check_not_empty()
    check_same_model(statistics, Statistics({}, fingerprint=model_fingerprint(model)))
    check_patches(patches_of(model), "the connected MODEL", statistics)
    if isinstance(stats, CalibrationSession):
        writable_folder(stats.path.parent)  # before minutes of measuring
    purposes = {
        purpose: form
        for purpose, form in zip(options.impact_purposes, FORMATS[options.mode].forms, strict=True)
        if any(
            purpose not in layer.impacts for name, layer in statistics.layers.items() if form.holds(name, layer.shape)
        )
    }
    layers = [
        name
        for name, layer in sorted(statistics.layers.items())
        if any(p not in layer.impacts and form.holds(name, layer.shape) for p, form in purposes.items())
    ]
    if not layers:
        return stats
    logger.info("HSWQ: measuring the sensitivity of %d layers for %s", len(layers), ", ".join(purposes))
    found: dict[str, dict[str, float]] = {purpose: {} for purpose in purposes}

    def keep() -> Any:
        result = statistics
        for purpose, impacts in found.items():
            if isinstance(stats, CalibrationSession):
                stats.add_impacts(impacts, purpose)
            else:
                result = result.with_impacts(impacts, purpose)
        return stats if isinstance(stats, CalibrationSession) else result

    measuring = measure_impacts(
        model,
        statistics,
        layers,
        forms=list(purposes.values()),
        rounding=options.rounding,
        probes=probes,
        method=method,
        progress=work_events(node, progress_bar()),
        vectors=vectors,
    )
    saved = time.monotonic()
    try:
        for name, impacts in measuring:
            for purpose, form in purposes.items():
                if form.name in impacts:
                    found[purpose][name] = impacts[form.name]
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                keep()
                saved = time.monotonic()
    finally:
        result = keep()
    return result
