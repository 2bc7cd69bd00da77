"""Looks at a file from all sides."""

from __future__ import annotations

from pathlib import Path

from ..calibration.statistics import Statistics
from ..errors import CheckpointError
from ..progress import Progress, no_progress
from .actions import actions_of, kept_actions
from .compare import compare
from .contents import PARTS, Contents, Part, opened
from .diagnosis import Diagnosis, Examined
from .family import family_of
from .findings import findings_of
from .groups import groups_of, kept_of
from .machine import Machine, this_machine
from .memory import memory_of
from .openings import openings_of
from .step_time import step_times


def diagnose(
    file: Path,
    *,
    machine: Machine | None = None,
    original: Path | None = None,
    statistics: Statistics | None = None,
    progress: Progress = no_progress,
) -> Diagnosis:
    """What there is to say of a file. Without an original it reads the header, all scales and some of the weights.

    Args:
        machine: what the file is to run on; this machine if not given.
        original: the model that it was made from, unquantized: every layer is then compared.
        statistics: of the original; with them come the layers' output errors, and with impacts the model's.

    Errors: CheckpointError for what cannot be read; StatisticsError for statistics of another model.
    """
    machine = machine or this_machine()
    with opened(file) as contents:
        parts = _parts(contents)
        # A merge may have left a key of a LoRA behind.
        if sum(".lora_" in key for key in contents.tensors) > len(contents.tensors) / 2:
            raise CheckpointError("this is a LoRA, not a model", where=file, remedy="Give the model that it is for")
        if not parts:
            raise CheckpointError(
                "no layer of a model is in this file", where=file, remedy="Give a checkpoint, a diffusion model, a "
                "text encoder or a VAE",
            )  # fmt: skip
        findings = findings_of(contents)
        openings, family, groups = openings_of(contents, findings), family_of(contents), groups_of(contents)
        kinds = {group.kind for group in groups if group.part == "diffusion model"}
        return Diagnosis(
            file=str(file),
            container=contents.container,
            nbytes=contents.nbytes,
            family=family,
            parts=parts,
            groups=tuple(Examined(group, tuple(actions_of(group, contents, machine, openings))) for group in groups),
            kept=tuple(kept_of(contents)),
            kept_actions=tuple(kept_actions(contents, machine, openings)),
            openings=tuple(openings),
            machine=machine,
            memory=tuple(memory_of(contents, machine, openings)),
            step_times=step_times(family, kinds, machine),
            findings=tuple(findings),
            metadata=dict(contents.metadata),
            comparison=compare(contents, original, statistics, progress) if original else None,
        )


def _parts(contents: Contents) -> dict[Part, int]:
    """The parts that have layers, with the bytes of all their tensors."""
    there = {contents.part_of(name) for name in (*contents.layers, *contents.kept)}
    return {
        part: sum(info.nbytes for key, info in contents.tensors.items() if contents.part_of(key) == part)
        for part in PARTS
        if part in there
    }
