"""HSWQLoadStatistics and HSWQMergeStatistics: sessions from disk, and their sum."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.files.names import safe_file_name
from .common import CATEGORY, HSWQStats, modification_time, statistics_files, statistics_folder, statistics_of
from .inputs import checked


class HSWQLoadStatistics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQLoadStatistics",
            display_name="HSWQ Load Statistics",
            category=CATEGORY,
            description="Loads the statistics of a finished calibration session from output/hswq.",
            inputs=[io.Combo.Input("file", options=statistics_files(), tooltip="The session's file.")],
            outputs=[HSWQStats.Output(display_name="stats", tooltip="The statistics, for HSWQ Quantize.")],
        )

    @classmethod
    @checked
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(CalibrationSession.load(statistics_folder() / safe_file_name(file)))

    @classmethod
    def fingerprint_inputs(cls, file: str) -> int:
        return modification_time(statistics_folder() / file)


class HSWQMergeStatistics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQMergeStatistics",
            display_name="HSWQ Merge Statistics",
            category=CATEGORY,
            description="Adds up the statistics of two sessions of the same model. The sum is exact.",
            inputs=[
                HSWQStats.Input("a", tooltip="One session."),
                HSWQStats.Input("b", tooltip="Another session of the same model."),
            ],
            outputs=[HSWQStats.Output(display_name="stats", tooltip="The statistics, for HSWQ Quantize.")],
        )

    @classmethod
    @checked
    def execute(cls, a: Any, b: Any) -> io.NodeOutput:
        return io.NodeOutput(statistics_of(a) + statistics_of(b))
