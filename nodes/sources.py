"""Which model a node is to quantize: a file by name, the file that was calibrated, or the MODEL that is connected."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths

from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import CheckpointError, HSWQError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.layers import find_prefix
from ..hswq_core.files.source import TensorSource
from ..hswq_core.log import get_logger
from ..hswq_core.planning.source_check import check_not_quantized, check_patches, holds_model_of, names_differ
from ..loader.connected import SAMPLING_SETTINGS, by_native_names, connected_source, is_as_in_file
from ..loader.provenance import Prompt, patches_of, sources_of
from .common import modification_time

logger = get_logger(__name__)
CALIBRATED = "(the calibrated model)"
SOURCES = ("checkpoints", "diffusion_models")
"""The lists of models that can be quantized; the files go to folders of the same names."""
_CONNECTED = "the connected MODEL"
_EXTENSIONS = (".safetensors", ".sft")


def sources() -> list[str]:
    """What can be chosen to quantize: the calibrated model, and every file by name."""
    names = (name for category in SOURCES for name in folder_paths.get_filename_list(category))
    return list(dict.fromkeys((CALIBRATED, *names)))


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
    if source and not source.lower().endswith(_EXTENSIONS):
        logger.warning("HSWQ: %s is no safetensors file: connect the MODEL to HSWQ Quantize to quantize it", source)


def find_source(name: str, statistics: Statistics) -> tuple[str, Path]:
    """The list and the file of a model to quantize.

    Args:
        name: from ``sources``; ``CALIBRATED`` is the one that the statistics were measured on.

    Errors: CheckpointError when no list has it, or it cannot be told which is meant. StatisticsError for statistics
    of a model with patches, which no file holds.
    """
    check_patches("", name, statistics)
    if name == CALIBRATED:
        folder, path = _find_calibrated(statistics)
    else:
        folder = _list_with(name)
        path = model_path(folder, name)
    # A diffusion model alone goes to where its loader looks, wherever it was found.
    return ("diffusion_models" if _is_alone(path) else folder), path


def _is_alone(path: Path) -> bool:
    with contextlib.suppress(HSWQError), CheckpointReader(path) as reader:
        return _is_diffusion_model_alone(reader)
    return False


def _is_diffusion_model_alone(source: TensorSource) -> bool:
    """Whether there is neither text encoder nor VAE."""
    prefix = find_prefix(source)
    return all(key.startswith(prefix) for key in source.tensors.keys() - SAMPLING_SETTINGS)


def _list_with(name: str) -> str:
    folder = list_of(name)
    if folder is None:
        raise CheckpointError(
            "there is no such checkpoint", where=name, remedy="Refresh the page, and choose another one"
        )
    return folder


def _find_calibrated(statistics: Statistics) -> tuple[str, Path]:
    """The file that the loader opened for calibrating; where it is gone or unknown, the one that holds the model."""
    statistics.check_not_empty()
    folder, _, name = statistics.source.partition("/")
    if folder in SOURCES and (path := folder_paths.get_full_path(folder, name)) and _may_hold(Path(path), statistics):
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
    if folder in SOURCES and (path := folder_paths.get_full_path(folder, name)):
        with contextlib.suppress(OSError), CheckpointReader(Path(path)) as reader:
            check_not_quantized(reader)
    raise CheckpointError(
        "no checkpoint holds the model that was calibrated",
        where=", ".join(SOURCES),
        remedy="Connect the MODEL that was calibrated, or choose the source by its name",
    )


def _holds(path: Path, statistics: Statistics) -> bool:
    with contextlib.suppress(CheckpointError, OSError), CheckpointReader(path) as reader:
        return holds_model_of(reader, statistics)
    return False


def _may_hold(path: Path, statistics: Statistics) -> bool:
    """Whether a file holds the model, or names its layers so that only loading it can tell."""
    with contextlib.suppress(CheckpointError, OSError), CheckpointReader(path) as reader:
        return holds_model_of(reader, statistics) or names_differ(reader, statistics)
    return False


def _checkpoints() -> Iterator[tuple[str, Path]]:
    """The list and the file of every model that could be quantized."""
    for category in SOURCES:
        for name in folder_paths.get_filename_list(category):
            path = folder_paths.get_full_path(category, name)
            if path is not None and name.lower().endswith(_EXTENSIONS):
                yield category, Path(path)


@dataclass(frozen=True)
class Connected:
    """What is connected to a node that quantizes, and the workflow that says where it comes from."""

    model: Any
    clip: Any
    vae: Any
    prompt: Prompt | None
    node: str | None

    def files(self, socket: str) -> list[str]:
        """The files behind a socket, as "LIST/NAME"."""
        return sources_of(self.prompt, self.node, list_of, socket)

    def is_as_in(self, listed: str, file: CheckpointReader, statistics: Statistics) -> bool:
        """Whether all that is connected is what the file holds."""
        return (
            is_as_in_file(self.model, file)
            and holds_model_of(file, statistics)
            and (self.clip is None or (self.files("clip") == [listed] and not self.clip.patcher.patches))
            and (self.vae is None or self.files("vae") == [listed])
        )


@contextlib.contextmanager
def source_to_quantize(
    name: str, statistics: Statistics, connected: Connected
) -> Iterator[tuple[str, str, TensorSource]]:
    """The list that the quantized file belongs to, what to name it after, and the source, open.

    Where a MODEL is connected and has patches or comes from no file that can be read, it is the source itself.

    Errors: as ``find_source``; StatisticsError for statistics of a model with other patches.
    """
    if connected.model is None:
        folder, path = find_source(name, statistics)
        with CheckpointReader(path) as reader:
            yield folder, path.stem, by_native_names(reader, statistics)
        return
    patches = patches_of(connected.model)
    check_patches(patches, _CONNECTED, statistics)
    listed = _listed(name, connected, statistics)
    with contextlib.ExitStack() as stack:
        file = _open(listed, stack, must=name != CALIBRATED)
        if file is not None and connected.is_as_in(listed, file, statistics):
            alone = _is_diffusion_model_alone(file)
            yield "diffusion_models" if alone else listed.partition("/")[0], file.path.stem, file
            return
        opened = {listed: file} if file is not None else {}
        origins = {socket: _origins(connected.files(socket), opened, stack) for socket in ("model", "clip", "vae")}
        source = connected_source(connected.model, connected.clip, connected.vae, file, origins)
        stem = "+".join(Path(name).stem for name in sorted(connected.files("model"))) or "model"
        folder = "diffusion_models" if _is_diffusion_model_alone(source) else "checkpoints"
        yield folder, f"{stem}_merged" if patches else stem, source


def _origins(
    listed: Sequence[str], opened: dict[str, CheckpointReader], stack: contextlib.ExitStack
) -> list[CheckpointReader]:
    """The files of these names that can be read, each opened once; ``opened`` has those that are open."""
    for each in listed:
        if each not in opened and (file := _open(each, stack, must=False)):
            opened[each] = file
    return [opened[each] for each in listed if each in opened]


def _listed(name: str, connected: Connected, statistics: Statistics) -> str:
    """The file beside a connected MODEL, as "LIST/NAME": the one chosen, otherwise the one that it comes from."""
    if name != CALIBRATED:
        return f"{_list_with(name)}/{name}"
    files = connected.files("model") or [statistics.source]
    return files[0] if len(files) == 1 else ""


def _open(listed: str, stack: contextlib.ExitStack, *, must: bool) -> CheckpointReader | None:
    """The file, or ``None`` where there is none that can be read and it need not be."""
    folder, _, name = listed.partition("/")
    try:
        return stack.enter_context(CheckpointReader(model_path(folder, name)))
    except CheckpointError:
        if must:
            raise
        return None
