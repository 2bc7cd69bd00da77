"""The models that ComfyUI lists and a workflow may name: what can be chosen, and the file behind each name."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..hswq_core.errors import CheckpointError
from ..hswq_core.log import get_logger
from .common import modification_time

logger = get_logger(__name__)
CALIBRATED = "(the calibrated model)"
SOURCES = ("checkpoints", "diffusion_models")
"""The lists of models that can be quantized; the files go to folders of the same names."""
EXTENSIONS = (".safetensors", ".sft")


def sources() -> list[str]:
    """What can be chosen to quantize: the calibrated model, and every file by name."""
    return [CALIBRATED, *models()]


def models() -> list[str]:
    """Every checkpoint and diffusion model by name."""
    names = (name for category in SOURCES for name in folder_paths.get_filename_list(category))
    return list(dict.fromkeys(names))


def model_path(category: str, name: str) -> Path:
    """The file behind a name from a model list. Errors: CheckpointError when it is gone."""
    path = folder_paths.get_full_path(category, name) if category in SOURCES else None
    if path is None:
        raise CheckpointError("there is no such file", where=name, remedy="Refresh the page, and choose another model")
    return Path(path)


def known_path(path: str) -> Path:
    """A file that a workflow names by its path: only in the folders that ComfyUI knows.

    Errors: CheckpointError for any other, since workflows come from strangers.
    """
    file = Path(os.path.abspath(path))
    models = (Path(folder) for folders, _ in folder_paths.folder_names_and_paths.values() for folder in folders)
    own = map(Path, (folder_paths.get_output_directory(), folder_paths.get_input_directory(), folder_paths.models_dir))
    if not any(file.is_relative_to(os.path.abspath(folder)) for folder in (*own, *models)):
        raise CheckpointError(
            "this is in none of ComfyUI's folders",
            where=path,
            remedy="Move it to a folder of models, or to the output or input folder",
        )
    return file


def list_of(name: str) -> str | None:
    """The list of models that has a file of this name."""
    return next((folder for folder in SOURCES if name in folder_paths.get_filename_list(folder)), None)


def model_modification_time(category: str, name: str) -> int:
    """When a model's file last changed, so that a file that was replaced is loaded again; 0 if it is gone."""
    path = folder_paths.get_full_path(category, name)
    return modification_time(Path(path)) if path else 0


def warn_of_format(source: str) -> None:
    """Say before hours of calibration that a file can only be quantized from the MODEL that was loaded from it."""
    if source and not source.lower().endswith(EXTENSIONS):
        logger.warning("HSWQ: %s is no safetensors file: connect the MODEL to HSWQ Quantize to quantize it", source)
