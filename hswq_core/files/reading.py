"""How a model's file is read: into memory of the program's own, or mapped, so that it stays in the file until used.

A mapping costs no memory of its own. But a file that is cut short under it ends the process, one that is written over
changes the model, Windows replaces no file that is mapped, and a network that fails does the same as a cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import PlanError
from .shared_folder import is_known_to_be_local

READINGS = ("auto", "memory", "mapped")
SPARE = 1 << 30
"""Bytes of memory that reading a file is to leave free."""


@dataclass(frozen=True)
class Reading:
    """Attributes:
    mapped: or into memory.
    said: how, and why, for the log.
    """

    mapped: bool
    said: str


def choose_reading(
    asked: str, path: Path, needed: int, free: int, *, never_mapped: bool = False, mounts: str | None = None
) -> Reading:
    """How to read a file.

    Args:
        asked: ``memory``, ``mapped``, or ``auto``: memory, unless it is short and mapping is safe.
        needed, free: bytes that the tensors take, and that the system can give.
        never_mapped: whoever started the program has forbidden it.
        mounts: see ``is_known_to_be_local``.

    Errors: PlanError for another way.
    """
    if asked not in READINGS:
        raise PlanError(f"there is no reading {asked!r}", remedy=f"Choose one of {', '.join(READINGS)}")
    told = f"{needed / 1e9:.2f} GB, of {free / 1e9:.1f} GB that are free"
    if never_mapped or asked == "memory":
        return Reading(False, f"read into memory ({told}), as {'--disable-mmap' if never_mapped else 'chosen'} says")
    if asked == "mapped":
        return Reading(True, f"mapped, as chosen ({needed / 1e9:.2f} GB): it must not change while the model is in use")
    if free >= needed + SPARE:
        return Reading(False, f"read into memory ({told})")
    if is_known_to_be_local(path, mounts):
        return Reading(True, f"mapped, since memory is short ({told}): it must not change while the model is in use")
    return Reading(False, f"read into memory ({told}); mapping it would not be safe where it is")
