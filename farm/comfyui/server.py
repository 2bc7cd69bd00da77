"""A ComfyUI that this process starts and stops, or one that runs already."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .client import ComfyUIClient, ServerError

_PROCESS = Path(__file__).with_name("process.py")
_STARTING, _POLL = 300.0, 0.3


@contextlib.contextmanager
def comfyui_server(address: str) -> Iterator[ComfyUIClient]:
    """The server at an address; without one, that of ``COMFYUI_PATH``, started for this and stopped at the end.

    Errors: ServerError when there is neither, or it does not start.
    """
    folder = os.environ.get("COMFYUI_PATH", "")
    if address or not folder:
        yield ComfyUIClient(address or "http://127.0.0.1:8188")
        return
    started = StartedComfyUI(Path(folder))
    try:
        yield started.client
    finally:
        started.stop()


class StartedComfyUI:
    """A ComfyUI of this process: it is stopped by ``stop``, and ends when this process does.

    Args:
        folder: ComfyUI's own.
        arguments: more of its command line.
        environment: more variables for it.
        log: a file for what it says; nowhere if there is none.

    Errors: ServerError when it does not start.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        main = folder.resolve() / "main.py"
        if not main.is_file():
            raise ServerError("this folder is not a ComfyUI", where=folder, remedy="Let COMFYUI_PATH name its folder")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        command = [sys.executable, str(_PROCESS), str(main), "--port", str(self.port)]
        command += ["--disable-auto-launch", *_without_a_card(), *arguments]
        with open(log or os.devnull, "ab") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=output,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        self.client = ComfyUIClient(f"http://127.0.0.1:{self.port}")
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.kill()

    def kill(self) -> None:
        """End it as a crash would, without a word."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _wait(self) -> None:
        until = time.monotonic() + _STARTING
        while time.monotonic() < until and self.alive:
            with contextlib.suppress(ServerError):
                self.client.get("/system_stats")
                return
            time.sleep(_POLL)
        raise ServerError(
            "ComfyUI did not start",
            where=self.client.address,
            remedy="Start it by hand to see why, and give --server",
        )


def _without_a_card() -> list[str]:
    import torch

    cards = (torch.cuda, torch.backends.mps, getattr(torch, "xpu", None))
    return [] if any(card is not None and card.is_available() for card in cards) else ["--cpu"]
