"""What the nodes share: the category, the statistics socket, and where files live."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import CheckpointError, HSWQError, StatisticsError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.layers import find_prefix
from ..hswq_core.files.names import EXTENSION
from ..hswq_core.options import QuantizeOptions
from ..hswq_core.planning.source_check import holds_model_of
from ..hswq_core.progress import Progress

CATEGORY = "HSWQ"
CALIBRATED = "(the calibrated model)"
SOURCES = ("checkpoints", "diffusion_models")
"""The lists of models that can be quantized; the files go to folders of the same names."""
DEFAULT_SESSION = "default"
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


def list_of(name: str) -> str | None:
    """The list of models that has a file of this name."""
    return next((folder for folder in SOURCES if name in folder_paths.get_filename_list(folder)), None)


def session_for(session: str, source: str) -> str:
    """The session that is meant: the default is one for each model, named as its file."""
    return PurePath(source).stem if session == DEFAULT_SESSION and source else session


def find_source(name: str, statistics: Statistics) -> tuple[str, Path]:
    """The list and the file of a model to quantize.

    Args:
        name: from ``sources``; ``CALIBRATED`` is the one that the statistics were measured on.

    Errors: CheckpointError when no list has it, or it cannot be told which is meant. StatisticsError for statistics
    of a model with patches, which no file holds.
    """
    if statistics.patches:
        raise StatisticsError(
            "the model was calibrated with a LoRA or a merge on top, and no file on disk holds that",
            where=statistics.source or None,
            remedy="Save it with Save Checkpoint and calibrate the saved file, or calibrate without the patches",
        )
    if name == CALIBRATED:
        folder, path = _find_calibrated(statistics)
    else:
        folder = list_of(name)
        if folder is None:
            raise CheckpointError(
                "there is no such checkpoint", where=name, remedy="Refresh the page, and choose another one"
            )
        path = model_path(folder, name)
    # A diffusion model alone goes to where its loader looks, wherever it was found.
    return ("diffusion_models" if _is_diffusion_model_alone(path) else folder), path


def _is_diffusion_model_alone(path: Path) -> bool:
    with contextlib.suppress(HSWQError), CheckpointReader(path) as reader:
        prefix = find_prefix(reader)
        return all(key.startswith(prefix) for key in reader.tensors)
    return False


def sources() -> list[str]:
    """What can be chosen to quantize: the calibrated model, and every file by name."""
    names = (name for category in SOURCES for name in folder_paths.get_filename_list(category))
    return list(dict.fromkeys((CALIBRATED, *names)))


def _find_calibrated(statistics: Statistics) -> tuple[str, Path]:
    """The file that the loader opened when the model was calibrated; where it is gone or unknown, the one "
    "that holds it."""
    statistics.check_not_empty()
    folder, _, name = statistics.source.partition("/")
    if folder in SOURCES and (path := folder_paths.get_full_path(folder, name)) and _holds(Path(path), statistics):
        return folder, Path(path)
    found = [(folder, path) for folder, path in _checkpoints() if _holds(path, statistics)]
    # One file may be in two lists, through links or folders that overlap.
    files = {path.resolve(): (folder, path) for folder, path in reversed(found)}
    if len(files) == 1:
        return files.popitem()[1]
    if files:
        names = ", ".join(sorted(path.name for _, path in files.values()))
        raise CheckpointError(
            f"{len(files)} files hold the diffusion model that was calibrated: {names}",
            where=", ".join(SOURCES),
            remedy="Choose the source by its name: they differ in text encoder, VAE or settings",
        )
    raise CheckpointError(
        "no checkpoint holds the model that was calibrated",
        where=", ".join(SOURCES),
        remedy="Choose the source by its name; a model that was merged or changed by other nodes must be saved first",
    )


def _holds(path: Path, statistics: Statistics) -> bool:
    with contextlib.suppress(CheckpointError, OSError), CheckpointReader(path) as reader:
        return holds_model_of(reader, statistics)
    return False


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
