"""What the nodes share: the category, the statistics socket, and where files live."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.names import EXTENSION

CATEGORY = "HSWQ"
HSWQStats = io.Custom("HSWQ_STATS")


def statistics_of(stats: CalibrationSession | Statistics) -> Statistics:
    """What a statistics socket holds now: a session goes on growing while the socket's value is cached."""
    return stats.statistics if isinstance(stats, CalibrationSession) else stats


def statistics_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "hswq"


def statistics_files() -> list[str]:
    return sorted(path.name for path in statistics_folder().glob(f"*{EXTENSION}"))


def model_path(category: str, name: str) -> Path:
    """The file behind a name from a model list. Errors: CheckpointError when it is gone."""
    path = folder_paths.get_full_path(category, name)
    if path is None:
        raise CheckpointError("there is no such file", where=name, do="Refresh the page, and choose another model")
    return Path(path)


def model_modification_time(category: str, name: str) -> int:
    """When a model's file last changed, so that a file that was replaced is loaded again; 0 if it is gone."""
    path = folder_paths.get_full_path(category, name)
    return modification_time(Path(path)) if path else 0


def modification_time(path: Path) -> int:
    """When a file last changed, in nanoseconds; 0 if it is gone."""
    return path.stat().st_mtime_ns if path.exists() else 0


def progress_bar() -> Callable[[int, int], None]:
    """What a long job calls with the amount done and in all: it moves the node's bar, and ends the job on cancel."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return progress
