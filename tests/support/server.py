"""A real ComfyUI server as a subprocess, driven as the web page drives it: HTTP and websocket."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import websocket

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
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        arguments: tuple[str, ...] = (),
        packs: tuple[Path, ...] = (),
        pack: Path = REPOSITORY,
    ) -> None:
        self.comfyui, self.base, self.arguments = comfyui, base, arguments
        for folder in _FOLDERS:
            (base / folder).mkdir(parents=True, exist_ok=True)
        for folder, name in ((pack, "ComfyUI-HSWQ"), (TINY_PACK, "hswq-tiny-model"), *((p, p.name) for p in packs)):
            _install(folder, base / "custom_nodes" / name)
        shutil.copy(TINY_CHECKPOINT, base / "models/checkpoints")
        self._client = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
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
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 180) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "main.py", "--cpu", "--port", str(self.port), "--base-directory", str(self.base)]
        command += ["--disable-auto-launch", *self.arguments]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.comfyui, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"ComfyUI did not start:\n{self.log[-4000:]}") from None
                time.sleep(0.3)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it as a crash would, without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
            return json.load(response)

    def post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None

    def run(
        self, workflow: dict[str, Any], timeout: float = 600, interrupt_at_step: int | None = None
    ) -> dict[str, Any]:
        """Queue a workflow, wait for its end, and give the outputs by node.

        Args:
            interrupt_at_step: press cancel when a node reports this much progress.

        Errors: ExecutionError when the server refuses it, it fails, or it was interrupted.
        """
        channel = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={self._client}", timeout=timeout)
        try:
            try:
                queued = self.post("/prompt", {"prompt": workflow, "client_id": self._client})
            except urllib.error.HTTPError as error:
                details = json.loads(error.read())
                raise ExecutionError(json.dumps(details.get("node_errors") or details["error"]), details) from None
            prompt = queued["prompt_id"]
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
                    break
        finally:
            channel.close()
        deadline = time.monotonic() + 10
        while prompt not in (history := self.get(f"/history/{prompt}")):
            if time.monotonic() > deadline:
                raise ExecutionError("the finished workflow is not in the history", {})
            time.sleep(0.05)
        return dict(history[prompt]["outputs"])

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
