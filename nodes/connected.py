"""What a node quantizes where a MODEL is connected: the file that holds it, or the MODEL itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import CheckpointError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.planning import MatchedSource, match_source
from ..hswq_core.planning.matched_source import holds_model_of
from ..hswq_core.planning.source_check import check_patches
from ..loader.calibrate import model_fingerprint
from ..loader.connected import CONNECTED, by_native_names, connected_source, is_as_in_file
from ..loader.provenance import Prompt, patches_of, sources_of
from .found_source import find_source, folder_for, list_with
from .sources import CALIBRATED, list_of, model_path


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

    def match_in(self, listed: str, file: CheckpointReader, statistics: Statistics) -> MatchedSource | None:
        """The file, matched, if all that is connected is what it holds."""
        is_same = (
            is_as_in_file(self.model, file)
            and (self.clip is None or (self.files("clip") == [listed] and not self.clip.patcher.patches))
            and (self.vae is None or self.files("vae") == [listed])
        )
        # Statistics and file may be of one model, and another one be connected.
        calibrated = statistics.fingerprint
        if not is_same or (calibrated and not calibrated.matches(model_fingerprint(self.model))):
            return None
        return holds_model_of(file, statistics)


@contextlib.contextmanager
def source_to_quantize(
    name: str, statistics: Statistics, connected: Connected, *, text_encoders_alone: bool
) -> Iterator[tuple[str, str, MatchedSource]]:
    """The list that the quantized file belongs to, what to name it after, and the source, open.

    Where a MODEL is connected and has patches or comes from no file that can be read, it is the source itself.

    Errors: as ``find_source``; StatisticsError for statistics of a model with other patches.
    """
    with contextlib.ExitStack() as stack:
        if connected.model is None:
            found = find_source(name, statistics, stack)
            matched = found.matched
            if matched is None:
                source = by_native_names(found.file, statistics)
                matched = match_source(source, statistics, text_encoders_alone=text_encoders_alone)
            yield found.folder, found.file.path.stem, matched
            return
        patches = patches_of(connected.model)
        check_patches(patches, CONNECTED, statistics)
        listed = _listed(name, connected, statistics)
        file = _open(listed, stack, must=name != CALIBRATED)
        matched = connected.match_in(listed, file, statistics) if file is not None else None
        if file is not None and matched is not None:
            yield folder_for(file, listed.partition("/")[0]), file.path.stem, matched
            return
        opened = {listed: file} if file is not None else {}
        origins = {socket: _origins(connected.files(socket), opened, stack) for socket in ("model", "clip", "vae")}
        source = connected_source(connected.model, connected.clip, connected.vae, file, origins)
        stem = "+".join(Path(name).stem for name in sorted(connected.files("model"))) or "model"
        matched = match_source(source, statistics, text_encoders_alone=text_encoders_alone)
        yield folder_for(source, "checkpoints"), f"{stem}_merged" if patches else stem, matched


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
        return f"{list_with(name)}/{name}"
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
