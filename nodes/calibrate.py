"""HSWQCalibrate: measures a MODEL in every KSampler run that uses it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.files.folders import writable_folder
from ..hswq_core.files.names import safe_file_name
from ..loader.calibrate import calibrated_clone, model_fingerprint
from ..loader.provenance import source_of, sources_of
from .common import CATEGORY, HSWQStats, found_by, session_for, statistics_folder
from .events import calibration_events
from .inputs import checked
from .sources import list_of, warn_of_format


class HSWQCalibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQCalibrate",
            display_name="HSWQ Calibrate",
            category=CATEGORY,
            **found_by("quantize", "fp8", "int8"),
            description=(
                "Goes between the loader and the KSampler. Measures every sampling run with this model and adds it to "
                "the session when it has finished. The images do not change. Use about 32 images of 25 steps."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The full-precision model to calibrate."),
                io.String.Input(
                    "session",
                    default="default",
                    tooltip=(
                        "The name of the measurements. They are stored in output/hswq and continued under this name. "
                        "default: one session for each model, named as its file."
                    ),
                ),
                io.Int.Input(
                    "rows_per_layer",
                    default=1024,
                    min=0,
                    max=65536,
                    tooltip=(
                        "How many input rows to sample from each layer, for calibrated rounding. 0 samples "
                        "none and saves "
                        "memory: for SDXL, 1024 rows take 2.7 GB."
                    ),
                ),
                io.Boolean.Input(
                    "reset", default=False, tooltip="Discard what the session has measured and start again."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The same model, measured while it samples."),
                HSWQStats.Output(display_name="stats", tooltip="The session's statistics, for HSWQ Quantize."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def fingerprint_inputs(cls, reset: bool = False, **_: Any) -> float:
        # With reset on, every workflow starts again. A NaN equals nothing, so ComfyUI's cache never applies.
        return float("nan") if reset else 0.0

    @classmethod
    @checked
    def execute(cls, model: Any, session: str, rows_per_layer: int, reset: bool) -> io.NodeOutput:
        source = source_of(cls.hidden.prompt, cls.hidden.unique_id, list_of)
        warn_of_format(source)
        session = session_for(session, sources_of(cls.hidden.prompt, cls.hidden.unique_id, list_of, "model"))
        path = writable_folder(statistics_folder()) / safe_file_name(session, "session name")
        opened = CalibrationSession.open(path, model_fingerprint(model), reset=reset)
        events = calibration_events(cls.hidden.unique_id, session)
        return io.NodeOutput(calibrated_clone(model, opened, rows_per_layer, source, events), opened)
