"""ComfyUI nodes: sockets, tooltips, progress and messages around ``hswq_core`` and ``loader``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..hswq_core.log import print_any_text
from .calibrate import HSWQCalibrate
from .calibrate_run import HSWQCalibrateRun
from .compare import HSWQCompare
from .doctor import HSWQDoctor
from .load import HSWQDiffusionModelLoader, HSWQLoader
from .measure import HSWQMeasureSensitivity
from .prove import HSWQProve
from .publish import HSWQPublish
from .quantize import HSWQQuantize
from .report import HSWQReport
from .statistics import HSWQLoadStatistics, HSWQMergeStatistics
from .web_api import add_routes


class HSWQExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            HSWQCalibrate,
            HSWQCalibrateRun,
            HSWQCompare,
            HSWQDiffusionModelLoader,
            HSWQDoctor,
            HSWQLoader,
            HSWQLoadStatistics,
            HSWQMeasureSensitivity,
            HSWQMergeStatistics,
            HSWQProve,
            HSWQPublish,
            HSWQQuantize,
            HSWQReport,
        ]


async def comfy_entrypoint() -> HSWQExtension:
    print_any_text()
    add_routes()
    return HSWQExtension()
