"""A running ComfyUI, driven as its page drives it: a workflow is queued, and its outputs are waited for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import comfyui_process
from .errors import HSWQError

_STARTING = 300.0
_POLL = 0.5


class ServerError(HSWQError):
    """ComfyUI cannot be reached, or refuses or fails a workflow."""


class ComfyUIServer:
    """Args: address: as http://127.0.0.1:8188."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def run(self, workflow: Mapping[str, Any]) -> dict[str, Any]:
        """Queue a workflow (in the form of the API) and wait for what its nodes show, by node.

        Errors: ServerError when ComfyUI does not know a node or a value, a node fails, or it was started anew.
        """
        answer = self._ask("/prompt", {"prompt": workflow})
        number = answer["prompt_id"]
        while (found := self._ended(number)) is None:
            time.sleep(_POLL)
        status = found["status"]
        if status["status_str"] != "success":
            failed = [said for kind, said in status["messages"] if kind == "execution_error"]
            why = failed[-1]["exception_message"].strip() if failed else "the workflow was interrupted"
            raise ServerError(why.rstrip("."), where=self.address, remedy="See ComfyUI's log")
        return found["outputs"]

    def _ended(self, number: str) -> dict[str, Any] | None:
        """What became of a workflow; ``None`` while it waits or runs."""
        path = f"/history/{number}"
        if found := self._ask(path).get(number):
            return found
        queued = [entry[1] for entries in self._ask("/queue").values() for entry in entries]
        if number in queued:
            return None
        if found := self._ask(path).get(number):  # it has ended since
            return found
        raise ServerError(
            "ComfyUI knows nothing of the workflow any more",
            where=self.address,
            remedy="It was started anew: run again",
        )

    def get(self, path: str) -> dict[str, Any]:
        """What it answers at an address of its own. Errors: ServerError when it does not, or refuses."""
        return self._ask(path)

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode("utf-8")
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ServerError(_refusal(error), where=self.address, remedy="Check the names and options") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(
                f"ComfyUI does not answer ({reason})", where=self.address, remedy="Start it, or give --server"
            ) from error


@contextlib.contextmanager
def comfyui_server(address: str) -> Iterator[ComfyUIServer]:
    """The server at an address; without one, that of ``COMFYUI_PATH``, started for this and stopped at the end.

    Errors: ServerError when there is neither, or it does not start.
    """
    folder = os.environ.get("COMFYUI_PATH", "")
    if address or not folder:
        yield ComfyUIServer(address or "http://127.0.0.1:8188")
        return
    started = StartedComfyUI(Path(folder))
    try:
        yield started.server
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
            raise ServerError("this is no ComfyUI", where=folder, remedy="Let COMFYUI_PATH name its folder")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, str(Path(comfyui_process.__file__)), str(main), "--port", str(port)]
        command += ["--disable-auto-launch", *_without_a_card(), *arguments]
        with open(log or os.devnull, "ab") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=output,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        self.server = ComfyUIServer(f"http://127.0.0.1:{port}")
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
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _wait(self) -> None:
        until = time.monotonic() + _STARTING
        while time.monotonic() < until and self.alive:
            with contextlib.suppress(ServerError):
                self.server.get("/system_stats")
                return
            time.sleep(_POLL)
        raise ServerError(
            "ComfyUI did not start",
            where=self.server.address,
            remedy="Start it by hand to see why, and give --server",
        )


def _without_a_card() -> list[str]:
    import torch

    cards = (torch.cuda, torch.backends.mps, getattr(torch, "xpu", None))
    return [] if any(card is not None and card.is_available() for card in cards) else ["--cpu"]


def _refusal(error: urllib.error.HTTPError) -> str:
    """What ComfyUI says of a workflow that it does not take, in one line."""
    try:
        said = json.load(error)
        details = [f"{e['message']}: {e['details']}" for node in said["node_errors"].values() for e in node["errors"]]
        return "; ".join(details) or said["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"ComfyUI answers {error.code}"
