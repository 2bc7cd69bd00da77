"""What the nodes share: the category, the statistics socket, options and progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import is_printable
from ..hswq_core.files.names import EXTENSION, usable_name
from ..hswq_core.options import QuantizeOptions
from ..hswq_core.progress import Progress
from ..hswq_core.recipes import CUSTOM, recipe_fields

CATEGORY = "HSWQ"
DEFAULT_SESSION = "default"
HSWQStats = io.Custom("HSWQ_STATS")


# Older ComfyUI searches names alone.
_KNOWS_ALIASES = "search_aliases" in {field.name for field in fields(io.Schema)}


def found_by(*words: str) -> dict[str, Any]:
    """For a node's schema: words that the page's search finds the node by, beside its name."""
    return {"search_aliases": ["quantization", *words]} if _KNOWS_ALIASES else {}


def statistics_of(stats: CalibrationSession | Statistics) -> Statistics:
    """The statistics of a socket's value: those of a session grow while ComfyUI caches the session."""
    return stats.statistics if isinstance(stats, CalibrationSession) else stats


def statistics_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "hswq"


def statistics_files() -> list[str]:
    """The statistics files that can be chosen: those whose names a page can show."""
    names = (path.name for path in statistics_folder().glob(f"*{EXTENSION}") if path.is_file())
    return sorted(name for name in names if is_printable(name))


def session_for(session: str, sources: Iterable[str]) -> str:
    """The session's name. The default is one session for each model, named as its file, or as the files of a merge."""
    stems = sorted({PurePath(source).stem for source in sources if source})
    return usable_name("+".join(stems)) if session == DEFAULT_SESSION and stems else session


def quantize_options(values: Mapping[str, Any]) -> QuantizeOptions:
    """The options among a node's inputs or the page's query; patterns are separated by commas or lines.

    A ``recipe`` among them decides its fields, whatever they say: an API prompt always has all of them.

    Errors: PlanError for a value that cannot be used, or an unknown recipe.
    """
    values = {**values, **recipe_fields(values.get("recipe") or CUSTOM)}
    known = {field.name for field in fields(QuantizeOptions)}
    chosen = {name: value for name, value in values.items() if name in known}
    for name in ("force_keep", "force_quantize"):
        parts = chosen.get(name, "").replace("\n", ",").split(",")
        chosen[name] = tuple(pattern for part in parts if (pattern := part.strip()))
    # The page sends words.
    chosen["rotate"] = str(chosen.get("rotate", False)).lower() == "true"
    if isinstance(chosen.get("keep_ratio"), str):
        with contextlib.suppress(ValueError):  # what is no number is told of as it is
            chosen["keep_ratio"] = float(chosen["keep_ratio"])
    return QuantizeOptions(**chosen)


def modification_time(path: Path) -> int:
    """When a file last changed, in nanoseconds; 0 if it is gone."""
    return path.stat().st_mtime_ns if path.exists() else 0


def progress_bar() -> Progress:
    """A progress function that moves the node's bar, and raises when the user cancels."""
    bar = comfy.utils.ProgressBar(1)

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return progress


def work_device() -> torch.device:
    """Where weights are rounded: CUDA where ComfyUI uses it, otherwise the CPU, whose cores work side by side."""
    device = comfy.model_management.get_torch_device()
    return device if device.type == "cuda" else torch.device("cpu")
