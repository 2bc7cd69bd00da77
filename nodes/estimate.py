"""What HSWQ Quantize will take, for the line under its chart: disk, memory, and time where an earlier run tells."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import folder_paths
import torch

from ..hswq_core.calibration import Statistics
from ..hswq_core.estimate import estimate, measuring_memory
from ..hswq_core.files.layers import find_layers
from ..hswq_core.options import QuantizeOptions
from ..hswq_core.planning.budget import smallest_size
from ..hswq_core.sensitivity.rules import has_impacts
from ..loader.memory import total_memory
from .common import work_device
from .found_source import FoundSource
from .run_times import Step, kind_of, seconds_of


def estimate_of(
    found: FoundSource, statistics: Statistics, options: QuantizeOptions, planned: int | None
) -> dict[str, object]:
    """For JSON; sizes in bytes.

    Args:
        planned: the size of the planned file; ``None`` where what it depends on is not measured yet.
    """
    weights = (found.matched or find_layers(found.file)).weights
    largest = max((info.numel for info in weights.values()), default=0)
    least = smallest_size(found.file, options) if planned is None else planned
    needed = estimate(least, largest, Path(folder_paths.get_output_directory()) / found.folder)
    device, runs_on = work_device(), comfy.model_management.get_torch_device()
    is_missing = options.selection == "measured" and not has_impacts(statistics, options)
    steps: list[tuple[Step, torch.device]] = [("rounding", device)]
    if is_missing:
        steps.insert(0, ("measuring", runs_on))
    return {
        "bytes": planned,
        "least_bytes": least,
        "disk_free": needed.disk_free,
        "memory": needed.memory,
        "memory_of": "CPU" if device.type == "cpu" else "card",
        "seconds": {step: seconds_of(kind_of(step, options, weights.values(), place)) for step, place in steps},
        "measuring": {
            "memory": measuring_memory(weights.values(), runs_on),
            "total": total_memory(runs_on),
            "memory_of": "CPU" if runs_on.type == "cpu" else "card",
        }
        if is_missing
        else None,
    }
