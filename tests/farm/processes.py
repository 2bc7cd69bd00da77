"""The processes of a farm, to be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def servers_of(folder: Path) -> list[int]:
    """The ComfyUI servers that belong to a farm in a folder: they were told of its models."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().split(b"\0")
            config = next((Path(os.fsdecode(word)) for word in command if word.endswith(b"models.yaml")), None)
            if config is not None and config.exists() and str(folder) in config.read_text("utf-8"):
                found.append(int(process.name))
    return found


def starters_of(servers: list[int]) -> list[int]:
    """The worker processes that started them."""
    found = []
    for process in servers:
        with contextlib.suppress(OSError, IndexError, ValueError):
            found.append(int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]))
    return found


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def wait_for(condition: Callable[[], object], seconds: float = 300) -> bool:
    """Whether it came true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False
