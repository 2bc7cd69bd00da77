"""HSWQMeasureSensitivity: what each layer's rounding does to the model's output."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import Statistics, check_same_model
from ..hswq_core.errors import StatisticsError
from ..hswq_core.files.folders import writable_folder
from ..hswq_core.formats import FORMATS
from ..hswq_core.log import get_logger
from ..hswq_core.options import METHODS, MODEL_CARD, ROUNDINGS, Method, QuantizeOptions, Rounding
from ..hswq_core.planning.source_check import check_patches
from ..hswq_core.report import Report
from ..hswq_core.sensitivity.gradient import FEW_PROBES, FEW_VECTORS, PREDICTING_PROBES, PREDICTING_VECTORS, VECTORS
from ..hswq_core.sensitivity.rules import has_impacts, layers_without_impact
from ..loader.calibrate import model_fingerprint
from ..loader.connected import CONNECTED
from ..loader.impact import measure_impacts
from ..loader.joint_look import errors_of_file
from ..loader.provenance import patches_of
from .common import CATEGORY, HSWQStats, progress_bar, statistics_of
from .events import work_events
from .inputs import checked
from .run_times import timed

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


def measured_stats(model: Any, stats: Any, options: QuantizeOptions, node: str | None, kind: str) -> Any:
    """The same with the impacts that these options need. What is missing is measured on few inputs, which is quick.

    Args: kind: of this step, to remember how long it took.
    """
    if has_impacts(statistics_of(stats), options):
        return stats
    predicting = bool(FORMATS[options.mode].menu)
    probes, vectors = (PREDICTING_PROBES, PREDICTING_VECTORS) if predicting else (FEW_PROBES, FEW_VECTORS)
    with timed(kind):
        return with_impacts(model, stats, options, probes, "gradient", node, vectors)


def looked_at(report: Report, model: Any, statistics: Statistics, node: str | None) -> Report:
    """The report of a written file with its error on the recorded inputs, beside what was predicted."""
    told = work_events(node, progress_bar(), "comparing")
    try:
        errors = errors_of_file(model, statistics, report.plan, report.file, told)
    except StatisticsError as error:  # the file is good, whether or not it can be looked at
        logger.warning("HSWQ: %s was not compared with the original: %s", report.file.name, error)
        return report
    return replace(report, measured=errors)


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
    check_patches(patches_of(model), CONNECTED, statistics)
    if isinstance(stats, CalibrationSession):
        writable_folder(stats.path.parent)  # before minutes of measuring
    missing = {p: layers for p in options.purposes if (layers := layers_without_impact(statistics, p))}
    if not missing:
        return stats
    # What the model card does is measured along, to compare with; one layer at a time it would take as long again.
    if method == "gradient" and MODEL_CARD not in options.purposes:
        missing = {MODEL_CARD: layers_without_impact(statistics, MODEL_CARD)} | missing
    layers = sorted(set[str]().union(*missing.values()))
    logger.info("HSWQ: measuring the sensitivity of %d layers for %s", len(layers), ", ".join(map(str, missing)))
    found: dict[str, dict[str, float]] = {str(purpose): {} for purpose in missing}

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
        purposes=list(missing),
        probes=probes,
        method=method,
        progress=work_events(node, progress_bar(), "measuring"),
        vectors=vectors,
    )
    saved = time.monotonic()
    try:
        for name, impacts in measuring:
            for purpose, impact in impacts.items():
                found[purpose][name] = impact
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                keep()
                saved = time.monotonic()
    finally:
        result = keep()
    return result
