"""The doctor at SDXL's size: a file, the file with its original, with statistics and impacts, and mending one.

    python -m benchmarks.doctor_scale --folder DIR     # 18 GB free; ten minutes

Random weights of SDXL's shapes, text encoders and VAE included (6.9 GB), and V2 and int8 files of them. Each step runs
in a process of its own, with all files in the page cache as far as it holds them; *read* takes every byte of both once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from hswq_core import diagnose, repair
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.writer import CheckpointWriter, FileLayout
from hswq_core.options import QuantizeOptions

from .memory import resident
from .quantize import make_checkpoint, make_statistics, run_job

MODES = ("v2", "int8")
MEASURED = "v2"
"""What the session has impacts for."""
STEPS = ("read", "alone", "original", "statistics", "read")
_STRIPPED = 100
"""Layers that the damaged file has no scale for."""


def run_step(step: str, file: Path, original: Path) -> None:
    """Prints seconds and peak memory as JSON."""
    statistics = None
    if step == "statistics":
        with CheckpointReader(original) as source:
            found = make_statistics(source)
            purpose = str(QuantizeOptions(mode=MEASURED).purposes[0])
            statistics = found.with_impacts(dict.fromkeys(found.layers, 1e-6), purpose)
    started = time.perf_counter()
    if step == "read":
        said = sum(read(path) for path in (file, original))
    elif step == "repair":
        said = len(repair(file, original, file.with_name("mended.safetensors"), overwrite=True).mends)
    else:
        found = diagnose(file, original=None if step == "alone" else original, statistics=statistics)
        said = found.comparison.predicted if found.comparison else len(found.findings)
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": resident("VmHWM"), "said": said}))


def read(path: Path) -> int:
    with CheckpointReader(path) as source:
        return sum(len(chunk) for key in source.tensors for chunk in source.chunks(key))


def strip(path: Path, target: Path) -> None:
    """The file without some of its scales."""
    with CheckpointReader(path) as source:
        lost = [key for key in source.tensors if key.endswith(".scale")][:_STRIPPED]
        layout = {key: (info.dtype, info.shape) for key, info in source.tensors.items() if key not in lost}
        with CheckpointWriter(target, FileLayout(layout, dict(source.metadata)), overwrite=True) as writer:
            for key in layout:
                writer.write(key, source.chunks(key))


def show(step: str, file: Path, original: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.doctor_scale", "--step", step, str(file), str(original)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{step:<12}{result['seconds']:>9.1f}{result['peak'] / 1e6:>9.0f}  {result['said']}", flush=True)
    return result["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for the files")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        run_step(args.step[0], Path(args.step[1]), Path(args.step[2]))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    original, damaged = args.folder / "original.safetensors", args.folder / "damaged.safetensors"
    make_checkpoint(original, 1.0)
    print(f"{original.stat().st_size / 1e9:.2f} GB, {os.cpu_count()} cores, torch {torch.__version__}")
    for mode in MODES:
        file = args.folder / f"{mode}.safetensors"
        run_job(mode, original, file)
        print(f"\n{mode}, {file.stat().st_size / 1e9:.2f} GB\n{'step':<12}{'seconds':>9}{'peak MB':>9}", flush=True)
        for step in STEPS:
            show(step, file, original)
        if mode == "v2":
            strip(file, damaged)
            show("repair", damaged, original)


if __name__ == "__main__":
    main()
