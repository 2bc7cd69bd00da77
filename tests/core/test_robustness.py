"""Kills, full disks, folders that vanish, sources that shrink: the target is old or new, never between."""

import os
import random
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core.__main__ import main
from hswq_core.errors import HSWQError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.options import QuantizeOptions
from hswq_core.planning import make_plan, match_source
from hswq_core.quantize_file import quantize_checkpoint
from tests.core.capabilities import needs_file_size_limit, needs_removable_open_files, process_of
from tests.core.conftest import PREFIX, WIDTH, Example

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    """A checkpoint that takes a moment to quantize: 48 layers, 25 MB."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{PREFIX}layers.{i}.weight": torch.randn(512, 512, generator=generator).half() for i in range(48)}
    save_file(tensors, tmp_path / "larger.safetensors")
    return tmp_path / "larger.safetensors"


def arguments(source: Path, target: Path, *more: str) -> list[str]:
    return ["quantize", str(source), str(target), "--mode", "v2", "--keep-ratio", "0", "--device", "cpu", *more]


def test_kill_at_any_moment_leaves_the_old_file_or_the_new_one(larger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "target"
    folder.mkdir()
    target = folder / "out.safetensors"

    def start() -> BaseProcess:
        process = process_of("hswq_core.__main__", main, arguments(larger, target, "--overwrite"))
        process.start()
        return process

    start().join(60)  # this is what a whole file looks like
    whole = target.read_bytes()
    begun = time.monotonic()
    start().join(60)
    duration = time.monotonic() - begun
    rng = random.Random(0)
    interrupted = 0
    for _ in range(30):
        old = rng.choice([b"the old file", b""])
        target.unlink()
        if old:
            target.write_bytes(old)
        process = start()
        time.sleep(rng.uniform(0.0, duration))
        process.kill()  # nothing happens if it was faster
        process.join(60)
        now = target.read_bytes() if target.exists() else b""
        assert now in (old, whole)
        interrupted += now == old
        if not target.exists():
            target.touch()
    assert interrupted >= 10
    start().join(60)
    assert target.read_bytes() == whole
    assert os.listdir(folder) == [target.name]  # what the killed ones left is gone


@needs_file_size_limit
def test_a_full_disk_is_one_clear_error_and_no_file(larger: Path, tmp_path: Path) -> None:
    """The kernel refuses to let the file grow, as a full disk or a quota does."""
    import resource

    target = tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "hswq_core", *arguments(larger, target)]
    limit = larger.stat().st_size // 4
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2 and "could not be written" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not target.exists() and not list(tmp_path.glob(".*.tmp"))


@needs_removable_open_files
def test_a_target_folder_that_vanishes(larger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "target"
    folder.mkdir()

    def vanish(done: int, total: int) -> None:
        if done > total // 2 and folder.exists():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()

    with (
        CheckpointReader(larger) as source,
        pytest.raises(HSWQError, match=r"folder does not exist|could not be written"),
    ):
        plan = make_plan(match_source(source, None), QuantizeOptions(mode="v1", keep_ratio=0.0))
        quantize_checkpoint(match_source(source, None), plan, folder / "out.safetensors", progress=vanish)
    assert not folder.exists()


def test_a_source_that_shrinks_meanwhile(larger: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"

    def shrink(done: int, total: int) -> None:
        if done > total // 2:
            os.truncate(larger, total // 2)

    with CheckpointReader(larger) as source, pytest.raises(HSWQError, match="ended while"):
        plan = make_plan(match_source(source, None), QuantizeOptions(mode="v2", keep_ratio=0.0))
        quantize_checkpoint(match_source(source, None), plan, target, progress=shrink)
    assert not target.exists() and not list(tmp_path.glob(".*.tmp"))


def test_output_is_read_by_plain_torch_and_by_code_that_upcasts(example: Example, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    with CheckpointReader(example.path) as source:
        plan = make_plan(match_source(source, example.statistics), QuantizeOptions(mode="v1", keep_ratio=0.1))
        quantize_checkpoint(match_source(source, example.statistics), plan, target)
    layer = torch.nn.Linear(WIDTH, WIDTH).half()
    upcast = {k: v.half() for k, v in load_file(target).items() if v.dtype == torch.float8_e4m3fn}
    layer.load_state_dict(
        {"weight": upcast[f"{PREFIX}blocks.0.weight"], "bias": example.tensors[f"{PREFIX}blocks.0.bias"]}
    )
    original = example.tensors[f"{PREFIX}blocks.0.weight"].float()
    assert (layer.weight.float() - original).abs().max() <= original.abs().max() / 16
