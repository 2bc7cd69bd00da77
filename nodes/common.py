"""What the nodes share: the category, the statistics socket, and where files live."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.names import EXTENSION
from ..hswq_core.options import QuantizeOptions
from ..hswq_core.planning.source_check import holds_model_of
from ..hswq_core.progress import Progress

CATEGORY = "HSWQ"
CALIBRATED = "(the calibrated model)"
SOURCES = ("checkpoints", "diffusion_models")
"""The lists of models that can be quantized; the files go to folders of the same names."""
_found: dict[str, tuple[str, Path]] = {}
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
    path = folder_paths.get_full_path(category, name) if category in SOURCES else None
    if path is None:
        raise CheckpointError("there is no such file", where=name, remedy="Refresh the page, and choose another model")
    return Path(path)


def find_source(name: str, statistics: Statistics) -> tuple[str, Path]:
    """The list and the file of a model to quantize.

    Args:
        name: from ``sources``; ``CALIBRATED`` is the one that the statistics were measured on.

    Errors: CheckpointError when no list has it.
    """
    if name == CALIBRATED:
        return _find_calibrated(statistics)
    for category in SOURCES:
        if name in folder_paths.get_filename_list(category):
            return category, model_path(category, name)
    raise CheckpointError("there is no such checkpoint", where=name, remedy="Refresh the page, and choose another one")


def sources() -> list[str]:
    """What can be chosen to quantize: the calibrated model, and every file by name."""
    names = (name for category in SOURCES for name in folder_paths.get_filename_list(category))
    return list(dict.fromkeys((CALIBRATED, *names)))


def _find_calibrated(statistics: Statistics) -> tuple[str, Path]:
    statistics.check_not_empty()
    fingerprint = statistics.fingerprint.text if statistics.fingerprint else ""
    # Where it was last time comes first: with a hundred checkpoints on a slow disk, looking at all takes a while.
    last = [_found[fingerprint]] if fingerprint in _found else []
    for category, path in itertools.chain(last, _checkpoints()):
        with contextlib.suppress(CheckpointError), CheckpointReader(path) as reader:
            if holds_model_of(reader, statistics):
                _found[fingerprint] = category, path
                return category, path
    raise CheckpointError(
        "no checkpoint holds the model that was calibrated",
        where=", ".join(SOURCES),
        remedy="Choose the source by its name; a model that was merged or changed by other nodes must be saved first",
    )


def _checkpoints() -> Iterator[tuple[str, Path]]:
    """The list and the file of every model that could be quantized."""
    for category in SOURCES:
        for name in folder_paths.get_filename_list(category):
            path = folder_paths.get_full_path(category, name)
            if path is not None and name.endswith(EXTENSION):
                yield category, Path(path)


def quantize_options(values: Mapping[str, Any]) -> QuantizeOptions:
    """The options among a node's inputs or the page's query; patterns are separated by commas or lines.

    Errors: PlanError for a value that cannot be used.
    """
    known = {field.name for field in fields(QuantizeOptions)}
    chosen = {name: value for name, value in values.items() if name in known}
    for name in ("force_keep", "force_quantize"):
        parts = chosen.get(name, "").replace("\n", ",").split(",")
        chosen[name] = tuple(pattern for part in parts if (pattern := part.strip()))
    return QuantizeOptions(**chosen)


def model_modification_time(category: str, name: str) -> int:
    """When a model's file last changed, so that a file that was replaced is loaded again; 0 if it is gone."""
    path = folder_paths.get_full_path(category, name)
    return modification_time(Path(path)) if path else 0


def modification_time(path: Path) -> int:
    """When a file last changed, in nanoseconds; 0 if it is gone."""
    return path.stat().st_mtime_ns if path.exists() else 0


def progress_bar() -> Progress:
    """What a long job calls with the amount done and in all: it moves the node's bar, and ends the job on cancel."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return progress
