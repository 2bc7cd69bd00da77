"""A farm of tiny checkpoints, small enough for a test, and the command that runs it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer

RECIPE = """
folder = "out"
checkpoints = ["models/*.safetensors"]
comfyui_arguments = ["--base-directory", "{base}"]
threads = 1
attempts = {attempts}
shared = {shared}

[calibration]
samples = {shards}
shards = {shards}
steps = 2
cfg = 2.0
width = 256
height = 256
rows_per_layer = 32

[sensitivity]
probes = 1

[[outputs]]
mode = "v2"
keep_ratio = 0.1
selection = "measured"
rounding = "calibrated"

[[outputs]]
mode = "int8"
budget = "60%"
"""
PROOF_AND_CARD = """
[proof]
seeds = 1
steps = 2
cfg = 2.0
width = 256
height = 256

[card]
author = "somebody"
licence = "apache-2.0"
"""


def make_checkpoints(folder: Path, count: int) -> list[Path]:
    """The tiny model with other weights each time."""
    folder.mkdir(parents=True)
    with safe_open(TINY_CHECKPOINT, "pt") as file:
        metadata = file.metadata()
    original, made = load_file(TINY_CHECKPOINT), []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        tensors = {
            key: tensor * (1 + 0.01 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype))
            if key.startswith("model.diffusion_model.") and tensor.dim() > 1
            else tensor
            for key, tensor in original.items()
        }
        made.append(folder / f"model_{number:02}.safetensors")
        save_file(tensors, made[-1], metadata)
    return made


class SmallFarm:
    """Args:
    base: a base folder of ComfyUI with this pack and the tiny one in it.
    models: a folder whose first checkpoints are taken; new ones are made without it.
    """

    def __init__(
        self,
        folder: Path,
        comfyui: Path,
        base: Path,
        *,
        checkpoints: int,
        models: Path | None = None,
        shards: int = 2,
        proof: bool = True,
        attempts: int = 2,
        shared: bool = True,
    ) -> None:
        self.folder, self.comfyui = folder, comfyui
        if models is None:
            make_checkpoints(folder / "models", checkpoints)
        else:
            (folder / "models").mkdir(parents=True)
            for path in sorted(models.iterdir())[:checkpoints]:
                shutil.copy(path, folder / "models")
        settings = {"base": base, "shards": shards, "attempts": attempts, "shared": str(shared).lower()}
        self.recipe = folder / "recipe.toml"
        self.recipe.write_text(RECIPE.format(**settings) + (PROOF_AND_CARD if proof else ""), "utf-8")

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "hswq_core", "farm", *words]

    def environment(self) -> dict[str, str]:
        # The day in a file's header is that on which its farm began, and two farms are compared.
        return {**os.environ, "COMFYUI_PATH": str(self.comfyui), "SOURCE_DATE_EPOCH": "1"}

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), cwd=REPOSITORY, env=self.environment(), capture_output=True, text=True,
            timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        return done

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*words), cwd=REPOSITORY, env=self.environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def digests(self) -> dict[str, str]:
        """Every statistics file and every model that was written, by its place."""
        tasks = self.folder / "out" / "tasks"
        return {
            str(path.relative_to(tasks)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(tasks.rglob("*.safetensors"))
        }

    def finished(self) -> list[str]:
        """The tasks of the journal, as often as they were finished."""
        lines = (self.folder / "out" / "tasks" / "journal.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line)["task"] for line in lines]

    def leftovers(self) -> list[str]:
        return [path.name for path in (self.folder / "out" / "tasks").iterdir() if path.name.startswith(".")]


def make_base(comfyui: Path, base: Path) -> Path:
    """A base folder of ComfyUI with the packs that the tiny model needs."""
    ComfyServer(comfyui, base)
    return base
