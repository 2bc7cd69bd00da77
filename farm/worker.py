"""A worker: one ComfyUI server, kept from task to task, and the tasks that need it driven as its page drives it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hswq_core.files.unfinished import is_running
from hswq_core.version import __version__

from .comfyui import ComfyUIClient, ServerError, StartedComfyUI

_BASE = "hswq-farm-"
_FOLDERS = ("output", "temp", "user", "input")


class Worker:
    """Args:
    comfyui: the folder of ComfyUI on this node.
    models: folders in which it is to look for checkpoints: those of the recipe, and the store.
    threads: of its arithmetic on a CPU.
    arguments: more of its command line.
    """

    def __init__(self, comfyui: Path, models: list[Path], threads: int, arguments: Sequence[str] = ()) -> None:
        self._comfyui, self._models, self._threads, self._arguments = comfyui, models, threads, arguments
        self._base = Path(tempfile.mkdtemp(prefix=f"{_BASE}{os.getpid()}-"))
        self._running: StartedComfyUI | None = None

    @property
    def own_store(self) -> Path:
        """A folder for results where none is shared; it ends with the worker."""
        return self._base / "store"

    @property
    def output(self) -> Path:
        """Where the server writes."""
        return self._base / "output"

    def run(self, workflow: Mapping[str, Any]) -> dict[str, Any]:
        """What the nodes of a workflow show, by node. A server that died is started again.

        Errors: ServerError when it does not start, has not this pack in this version, or a node fails.
        """
        return self._client().run(workflow)

    def describe(self, node: str) -> dict[str, Any]:
        """What the server says of a node: its inputs with their choices. Errors: ServerError."""
        return self._client().get(f"/object_info/{node}")[node]

    def restart(self) -> None:
        """Stop the server; the next task starts it anew, with an empty memory."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def close(self) -> None:
        """Stop the server and leave nothing behind."""
        self.restart()
        shutil.rmtree(self._base, ignore_errors=True)

    def _client(self) -> ComfyUIClient:
        if self._running is None or not self._running.alive:
            for name in _FOLDERS:
                (self._base / name).mkdir(parents=True, exist_ok=True)
            paths = self._base / "models.yaml"
            listed = "".join(f"    {folder}\n" for folder in (*self._models, self.own_store))
            paths.write_text(f"farm:\n  checkpoints: |\n{listed}", "utf-8")
            arguments = [*self._arguments, "--extra-model-paths-config", str(paths), "--disable-metadata"]
            for name in _FOLDERS:
                arguments += [f"--{name}-directory", str(self._base / name)]
            threads = {name: str(self._threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
            self._running = StartedComfyUI(self._comfyui, arguments, threads, self._base / "comfyui.log")
            self._check_pack(self._running.client)
        return self._running.client

    def _check_pack(self, client: ComfyUIClient) -> None:
        try:
            found = client.get("/hswq/version").get("version")
        except ServerError as error:
            raise ServerError(
                "this ComfyUI has not the nodes of HSWQ",
                where=self._comfyui,
                remedy="Put this pack into its custom_nodes folder",
            ) from error
        if found != __version__:
            raise ServerError(
                f"its HSWQ is {found}, and the farm's is {__version__}",
                where=self._comfyui,
                remedy="Install one version on all nodes",
            )

    @property
    def log(self) -> str:
        """The last that the server said."""
        path = self._base / "comfyui.log"
        return path.read_text("utf-8", errors="replace")[-4000:] if path.exists() else ""


def remove_stale_folders() -> None:
    """Of workers of this machine that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_BASE}*-*"):
        process = folder.name.removeprefix(_BASE).partition("-")[0]
        if process.isdigit() and not is_running(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def comfyui_of_this_node() -> Path:
    """Errors: ServerError when COMFYUI_PATH names no folder."""
    folder = os.environ.get("COMFYUI_PATH", "")
    if not folder or not Path(folder).is_dir():
        raise ServerError(
            "no ComfyUI is named", where=folder or "COMFYUI_PATH", remedy="Set COMFYUI_PATH to its folder"
        )
    return Path(folder)
