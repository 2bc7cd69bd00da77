"""A real ComfyUI server as a subprocess, driven as the web page drives it: over HTTP, and heard over a websocket."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import websocket

from farm.comfyui import ComfyUIClient, ServerError, StartedComfyUI

REPOSITORY = Path(__file__).resolve().parents[2]
TINY_PACK = REPOSITORY / "tests" / "tiny_model"
TINY_CHECKPOINT = TINY_PACK / "hswq_tiny.safetensors"
_FOLDERS = ("models/checkpoints", "models/diffusion_models", "custom_nodes", "input", "output", "temp", "user")


class ExecutionError(Exception):
    """A workflow that the server refused or that failed while it ran; ``details`` is the server's answer."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details


class ComfyServer:
    """A server with this pack, the tiny model's pack and the tiny checkpoint, in a folder of its own.

    Args:
        comfyui: a ComfyUI checkout.
        base: the folder for models, output and the rest; made if need be.
        arguments: more of ComfyUI's command line.
        packs: more node packs to install, folders of Python.
        pack: this pack, where it is not the repository itself.
        environment: more variables for the server's process.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        arguments: tuple[str, ...] = (),
        packs: tuple[Path, ...] = (),
        pack: Path = REPOSITORY,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.comfyui, self.base, self.arguments = comfyui, base, arguments
        self._environment = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **(environment or {})}
        for folder in _FOLDERS:
            (base / folder).mkdir(parents=True, exist_ok=True)
        for folder, name in ((pack, "ComfyUI-HSWQ"), (TINY_PACK, "hswq-tiny-model"), *((p, p.name) for p in packs)):
            _install(folder, base / "custom_nodes" / name)
        shutil.copy(TINY_CHECKPOINT, base / "models/checkpoints")
        self._started: StartedComfyUI | None = None
        self.log_file = base / "server.log"
        self.events: list[tuple[str, dict[str, Any]]] = []  # what this pack told the page

    @property
    def checkpoints(self) -> Path:
        return self.base / "models/checkpoints"

    @property
    def output(self) -> Path:
        return self.base / "output"

    @property
    def process_id(self) -> int:
        assert self._started is not None, "it does not run"
        return self._started.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        arguments = ["--cpu", "--base-directory", str(self.base), *self.arguments]
        try:
            self._started = StartedComfyUI(self.comfyui, arguments, self._environment, self.log_file)
        except ServerError as error:
            raise RuntimeError(f"{error}\n{self.log[-4000:]}") from None
        self.port = self._started.port
        self.client = ComfyUIClient(self._started.client.address, poll=0.05)

    def stop(self) -> None:
        if self._started is not None:
            self._started.stop()
            self._started = None

    def kill(self) -> None:
        """End it as a crash would, without a word."""
        if self._started is not None:
            self._started.kill()
            self._started = None

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(path, body)

    def unload(self, *, everything: bool = False) -> None:
        """The button *Unload Models*; or *Free model and node cache*. When this returns, it is done.

        The server does so when it has no workflow to run, or after the next one: so a small one follows.
        """
        self.post("/free", {"unload_models": True, "free_memory": everything})
        color = uuid.uuid4().int % 0xFFFFFF  # not taken from the cache
        image = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color}}
        self.run({"image": image, "shown": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}}})

    def run(
        self, workflow: dict[str, Any], timeout: float = 600, interrupt_at_step: int | None = None
    ) -> dict[str, Any]:
        """Queue a workflow, wait for its end, and give the outputs by node.

        Args:
            interrupt_at_step: press cancel when a node reports this much progress.

        Errors: ExecutionError when the server refuses it, it fails, or it was interrupted.
        """
        name = uuid.uuid4().hex
        channel = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={name}", timeout=timeout)
        try:
            prompt = self._queue(workflow, name)
            self._hear(channel, prompt, interrupt_at_step)
        finally:
            channel.close()
        return self.client.wait(prompt)

    def _queue(self, workflow: dict[str, Any], client_id: str) -> str:
        try:
            return self.client.queue(workflow, client_id=client_id)
        except ServerError as error:
            if error.answer is None:
                raise
            why = error.answer.get("node_errors") or error.answer["error"]
            raise ExecutionError(json.dumps(why), error.answer) from None

    def _hear(self, channel: websocket.WebSocket, prompt: str, interrupt_at_step: int | None) -> None:
        """Listen until the workflow has ended."""
        while True:
            message = channel.recv()
            if not isinstance(message, str):
                continue  # a preview image
            event = json.loads(message)
            kind, data = event["type"], event["data"]
            if kind.startswith("hswq."):
                self.events.append((kind, data))
            if data.get("prompt_id") != prompt:
                continue
            if kind == "execution_error":
                raise ExecutionError(data["exception_message"].strip(), data)
            if kind == "execution_interrupted":
                raise ExecutionError("interrupted", data)
            if kind == "progress" and interrupt_at_step is not None and data["value"] >= interrupt_at_step:
                self.post("/interrupt", {})
                interrupt_at_step = None
            if kind in ("execution_success", "executing") and data.get("node") is None:
                return

    def images(self, outputs: dict[str, Any], node: str) -> list[Path]:
        """The files a SaveImage or PreviewImage node wrote."""
        folders = {"output": self.output, "temp": self.base / "temp"}
        return [folders[i["type"]] / i["subfolder"] / i["filename"] for i in outputs[node]["images"]]


def _install(pack: Path, target: Path) -> None:
    if target.exists() or target.is_symlink():
        return
    try:
        target.symlink_to(pack, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        ignore = shutil.ignore_patterns(".*", "demo_output", "__pycache__")
        shutil.copytree(pack, target, ignore=ignore)
