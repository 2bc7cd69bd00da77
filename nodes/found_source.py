"""The file on disk that a node is to quantize: by its name, or as the one that was calibrated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import folder_paths

from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import CheckpointError, HSWQError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.layers import find_layers, find_prefix
from ..hswq_core.files.source import TensorSource
from ..hswq_core.planning import MatchedSource
from ..hswq_core.planning.matched_source import holds_model_of, names_differ
from ..hswq_core.planning.source_check import check_patches, check_source
from ..loader.connected import SAMPLING_SETTINGS
from .sources import CALIBRATED, EXTENSIONS, SOURCES, list_of, model_path


@dataclass(frozen=True)
class FoundSource:
    """A file to quantize, open.

    Attributes:
        folder: the list that the quantized file belongs to.
        matched: where it was found by its weights.
    """

    folder: str
    file: CheckpointReader
    matched: MatchedSource | None = None


def find_source(name: str, statistics: Statistics, stack: contextlib.ExitStack) -> FoundSource:
    """The file of a model to quantize.

    Args:
        name: from ``sources``; ``CALIBRATED`` is the one that the statistics were measured on.
        stack: closes the file.

    Errors: CheckpointError when no list has it, or it cannot be told which is meant. StatisticsError for statistics
    of a model with patches, which no file holds.
    """
    check_patches("", name, statistics)
    if name == CALIBRATED:
        found = _find_calibrated(statistics, stack)
    else:
        folder = list_with(name)
        found = FoundSource(folder, stack.enter_context(CheckpointReader(model_path(folder, name))))
    return replace(found, folder=folder_for(found.file, found.folder))


def folder_for(source: TensorSource, listed: str) -> str:
    """A diffusion model alone goes to where its loader looks, wherever it was found."""
    with contextlib.suppress(HSWQError):
        prefix = find_prefix(source)
        if all(key.startswith(prefix) for key in source.tensors.keys() - SAMPLING_SETTINGS):
            return "diffusion_models"
    return listed


def list_with(name: str) -> str:
    folder = list_of(name)
    if folder is None:
        raise CheckpointError(
            "there is no such checkpoint", where=name, remedy="Refresh the page, and choose another one"
        )
    return folder


def _find_calibrated(statistics: Statistics, stack: contextlib.ExitStack) -> FoundSource:
    """The file that the loader opened for calibrating; where it is gone or unknown, the one that holds the model."""
    statistics.check_not_empty()
    folder, _, name = statistics.source.partition("/")
    path = folder_paths.get_full_path(folder, name) if folder in SOURCES else None
    if path and (known := _open_match(folder, Path(path), statistics, stack, by_names=True)):
        return known
    found = [_open_match(folder, path, statistics, stack) for folder, path in _checkpoints()]
    # One file may be in two lists, through links or folders that overlap.
    files = {each.file.path.resolve(): each for each in reversed(found) if each}
    if len(files) == 1:
        return files.popitem()[1]
    if files:
        names = ", ".join(sorted(each.file.path.name for each in files.values()))
        raise CheckpointError(
            f"{len(files)} files hold the diffusion model that was calibrated: {names}",
            where=", ".join(SOURCES),
            remedy="Choose the source by its name: they differ in text encoder, VAE or settings",
        )
    if path:
        with contextlib.suppress(OSError), CheckpointReader(Path(path)) as reader:
            check_source(find_layers(reader), None)  # its own fault is the better message
    raise CheckpointError(
        "no checkpoint holds the model that was calibrated",
        where=", ".join(SOURCES),
        remedy="Connect the MODEL that was calibrated, or choose the source by its name",
    )


def _open_match(
    folder: str, path: Path, statistics: Statistics, stack: contextlib.ExitStack, *, by_names: bool = False
) -> FoundSource | None:
    """A file that holds the model, open until the stack closes it; ``None`` for any other, which is closed again.

    Args:
        by_names: whether a file also serves that names its layers so that only loading it can tell.
    """
    with contextlib.suppress(CheckpointError, OSError), contextlib.ExitStack() as own:
        file = own.enter_context(CheckpointReader(path))
        matched = holds_model_of(file, statistics)
        if matched or (by_names and names_differ(file, statistics)):
            stack.push(own.pop_all())
            return FoundSource(folder, file, matched)
    return None


def _checkpoints() -> Iterator[tuple[str, Path]]:
    """The list and the file of every model that could be quantized."""
    for category in SOURCES:
        for name in folder_paths.get_filename_list(category):
            path = folder_paths.get_full_path(category, name)
            if path is not None and name.lower().endswith(EXTENSIONS):
                yield category, Path(path)
