"""HSWQReport: what the statistics say, as an image and as text."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..hswq_core.planning.preview import preview
from .common import CATEGORY, HSWQStats, statistics_of
from .inputs import checked
from .report_chart import report_chart


class HSWQReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQReport",
            display_name="HSWQ Report",
            category=CATEGORY,
            description=(
                "Shows the layers by sensitivity, which ones a keep ratio keeps, what that costs, and what was "
                "calibrated."
            ),
            inputs=[
                HSWQStats.Input("stats", tooltip="The statistics of HSWQ Calibrate."),
                io.Float.Input(
                    "keep_ratio", default=0.25, min=0.0, max=1.0, step=0.01, tooltip="The share of layers to keep."
                ),
                io.AnyType.Input(
                    "after",
                    optional=True,
                    tooltip="Connect the sampled latent or the image, so that this node runs after the calibration.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="chart", tooltip="Layers by sensitivity, and steps by noise level."),
                io.String.Output(display_name="report", tooltip="The same as text, layer by layer."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, stats: Any, keep_ratio: float, after: Any = None) -> io.NodeOutput:
        found = preview(statistics_of(stats), keep_ratio)
        return io.NodeOutput(report_chart(found), str(found))
