"""Temporary files beside what they are to become: no two of any machines share one, and none stays for ever."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..log import get_logger

logger = get_logger(__name__)
_DAY = 86_400.0
_TELLING = ("/etc/machine-id", "/proc/self/ns/pid")


def temporary_beside(path: Path) -> Path:
    """A new name for a file that is to become ``path``: hidden, and known to ``remove_leftovers``.

    The folder may be shared: a process of another machine may have the same number, one of another container also the
    same host name.
    """
    return path.with_name(f".{path.name}.{maker()}.tmp")


@contextlib.contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """A folder inside ``folder`` to write into; gone in the end, unless it was renamed."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as temporary:
        unfinished = Path(temporary) / "made"
        unfinished.mkdir()
        yield unfinished


def remove_leftovers(path: Path) -> None:
    """Remove this machine's temporary files for this target whose process is gone: what a crash or a kill left.

    Whether another machine's process lives is not to be known: of its files old ones are told.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*-*.tmp"):
        if is_abandoned(leftover.name.split(".")[-2]):
            with contextlib.suppress(OSError):
                leftover.unlink()
        elif (days := _days_since_changed(leftover)) >= 1:
            said = "HSWQ: an unfinished file has stood here for %.0f days: %s. Remove it if no other machine writes it"
            logger.warning(said, days, leftover)


def maker() -> str:
    """A mark for what this process is making, another one each time."""
    return f"{machine()}-{os.getpid()}-{secrets.token_hex(3)}"


def is_abandoned(mark: str) -> bool:
    """Whether whoever had this mark was a process of this machine, and is gone."""
    whose, process, *_ = [*mark.split("-"), ""]
    return whose == machine() and process.isdigit() and not is_running(int(process))


def machine() -> str:
    """A short name for this machine, or container, of letters that any file may be named with."""
    told = socket.gethostname() + _told_by_system()
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def is_running(process: int) -> bool:
    """Whether a process of this machine lives; not to be known on Windows, where the answer is no."""
    if process == os.getpid():
        return True
    if os.name == "nt":
        # There, os.kill would end the process instead of asking for it. An open file cannot be removed on
        # Windows, so trying to is safe.
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _told_by_system() -> str:
    """What tells machines apart that have one name, and containers of one machine; nothing where there is none."""
    found = []
    for place in _TELLING:
        with contextlib.suppress(OSError, ValueError):
            found.append(os.readlink(place) if os.path.islink(place) else Path(place).read_text("utf-8"))
    return "".join(found)


def _days_since_changed(path: Path) -> float:
    try:
        return (time.time() - path.stat().st_mtime) / _DAY
    except OSError:
        return 0.0
