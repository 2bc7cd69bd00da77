"""Disks that fill at random sizes, and kills at random moments, over every command that writes."""

import contextlib
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hswq_core import load_statistics, quantize
from hswq_core.__main__ import main
from hswq_core.calibration import save_statistics
from tests.core.conftest import PREFIX, make_example

CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture
def commands(tmp_path: Path) -> list[list[str]]:
    """What writes: command lines with an empty word for the target. Their files have 8 to 50 MB."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{PREFIX}layers.{i}.weight": torch.randn(512, 512, generator=generator).half() for i in range(96)}
    large, v2 = tmp_path / "large.safetensors", tmp_path / "v2.safetensors"
    save_file(tensors, large)
    quantize(large, v2, mode="v2", keep_ratio=0.0, device="cpu")
    example = make_example(tmp_path, seed=0)
    sessions = [tmp_path / name for name in ("monday.safetensors", "tuesday.safetensors")]
    inputs = ({"0": torch.randn(1, 1 << 20), "1": torch.zeros(1)},)  # some megabytes to write
    for path in sessions:
        save_statistics(replace(example.statistics, inputs=inputs), path)
    CONTEXT.set_forkserver_preload(["hswq_core.__main__"])
    return [
        ["quantize", str(large), "", "--mode", "v2", "--keep-ratio", "0", "--device", "cpu"],
        ["quantize", str(large), "", "--mode", "int8", "--keep-ratio", "0", "--device", "cpu"],
        ["convert", str(v2), "", "--to", "fp16"],
        ["convert", str(v2), "", "--to", "comfy"],
        ["merge-stats", "", *map(str, sessions)],
    ]


def aimed(command: list[str], target: Path) -> list[str]:
    return [str(target) if word == "" else word for word in command] + ["--overwrite"]


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_forty_disks_that_fill(commands: list[list[str]], tmp_path: Path) -> None:
    """Needs the right to mount. The disk is smaller than the check of free space sees, as others write, too."""
    rng = random.Random(1)
    outcomes = {0: 0, 2: 0}
    for _ in range(40):
        with small_disk(tmp_path / "disk", rng.randrange(1, 60) << 20) as disk:
            target = disk / "out.safetensors"
            # Room that is free when the command looks, and taken when it writes.
            taken = disk / "others"
            filler = subprocess.Popen(
                [sys.executable, "-c", FILL, str(taken), str(rng.randrange(0, 40) << 20), str(rng.uniform(1.0, 3.0))]
            )
            command = aimed(rng.choice(commands), target)
            done = subprocess.run(
                [sys.executable, "-m", "hswq_core", *command],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
            )
            filler.wait()
            outcomes[done.returncode] += 1
            left = set(os.listdir(disk)) - {"others"}
            if done.returncode:
                assert done.stderr.startswith("hswq: ") and done.stderr.count("\n") == 1, done.stderr
                assert not left
            else:
                assert left == {"out.safetensors"}
    print(outcomes)
    assert min(outcomes.values()) > 5


FILL = """
import sys, time
time.sleep(float(sys.argv[3]))
try:
    with open(sys.argv[1], "wb", buffering=0) as file:
        for _ in range(int(sys.argv[2]) >> 20):
            file.write(bytes(1 << 20))
except OSError:
    pass
"""


def test_a_hundred_kills(commands: list[list[str]], tmp_path: Path) -> None:
    rng = random.Random(2)
    folder = tmp_path / "target"
    folder.mkdir()
    target = folder / "out.safetensors"
    whole, seconds = {}, {}

    def start(command: list[str]) -> multiprocessing.process.BaseProcess:
        process = CONTEXT.Process(target=main, args=(aimed(command, target),))
        process.start()
        return process

    for number, command in enumerate(commands):
        for _ in range(2):  # the first one starts the fork server
            target.unlink(missing_ok=True)
            begin = time.monotonic()
            start(command).join(120)
            seconds[number] = time.monotonic() - begin
        whole[number] = target.read_bytes()
    interrupted = 0
    for _ in range(100):
        number = rng.randrange(len(commands))
        old = whole[4] if number == 4 else b"the old file"  # statistics replace nothing but statistics
        target.write_bytes(old)
        process = start(commands[number])
        time.sleep(rng.uniform(0.0, seconds[number]))
        process.kill()
        process.join(120)
        now = target.read_bytes()
        assert now in (old, whole[number])
        interrupted += now == old
    print(f"{interrupted} of 100 interrupted")
    assert interrupted > 30
    target.write_bytes(whole[4])
    start(commands[4]).join(120)
    assert target.read_bytes() == whole[4] and load_statistics(target).runs
    assert os.listdir(folder) == [target.name]
