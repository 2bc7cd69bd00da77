"""ComfyUI nodes: sockets, tooltips, progress and messages around ``hswq_core`` and ``loader``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .calibrate import HSWQCalibrate
from .compare import HSWQCompare
from .load import HSWQDiffusionModelLoader, HSWQLoader
from .quantize import HSWQQuantize
from .statistics import HSWQLoadStatistics, HSWQMergeStatistics


class HSWQExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            HSWQCalibrate,
            HSWQCompare,
            HSWQDiffusionModelLoader,
            HSWQLoader,
            HSWQLoadStatistics,
            HSWQMergeStatistics,
            HSWQQuantize,
        ]


async def comfy_entrypoint() -> HSWQExtension:
    return HSWQExtension()
