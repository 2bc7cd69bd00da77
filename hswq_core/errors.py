"""One family of errors. Each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class HSWQError(Exception):
    """Base of every error that a user can act on.

    Args:
        what: the problem, as a sentence without its full stop.
        where: the file or layer it was found in.
        remedy: what to do, as a sentence without its full stop.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = printable(what), where, remedy and printable(remedy)
        message = f"{where}: {what}" if where is not None else what
        super().__init__(printable(f"{message}. {remedy}." if remedy else f"{message}."))


class CheckpointError(HSWQError):
    """A model file that is missing, damaged, or not what it should be."""


class StatisticsError(HSWQError):
    """Calibration statistics that are missing, empty, damaged, or of another model."""


class PlanError(HSWQError):
    """Options that no plan can be made from."""


class KernelError(HSWQError):
    """Kernels that were asked for and cannot be used."""


class TargetError(HSWQError):
    """An output file that cannot or must not be written."""


def printable(text: str) -> str:
    """The text as any console, log or page takes it.

    Names of files need not be UTF-8, and JSON may hold half of a character: what cannot be encoded becomes an escape,
    as in ``\\udcff``. ComfyUI's own printing of an error would fail otherwise, and end the thread that runs workflows.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_printable(text: str) -> bool:
    """Whether all of it can be encoded."""
    return printable(text) == text


def nearest_name(name: str, choices: Iterable[str]) -> str | None:
    """The choice that a mistyped name most likely means; ``None`` when none is near."""
    found = difflib.get_close_matches(name.lower(), list(choices), n=1, cutoff=0.6)
    return found[0] if found else None
