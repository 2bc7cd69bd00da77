"""Calibrated rounding of a whole model of SDXL's true geometry: time and peak memory, random weights and rows.

    python -m benchmarks.calibrated --folder DIR [--rows 1024]      # 13 GB free

The statistics have a sample of input rows for every layer, as calibration writes them: layers that share an input
(to_q, to_k and to_v) share their rows. The quantizer runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from hswq_core.calibration import Statistics, load_statistics, save_statistics
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.layers import layer_weights
from hswq_core.options import QuantizeOptions
from hswq_core.planning import make_plan, match_source
from hswq_core.quantize_file import quantize_checkpoint

from .memory import resident
from .quantize import PREFIX, make_checkpoint, make_statistics


def with_rows(statistics: Statistics, shapes: dict[str, tuple[int, ...]], rows: int) -> Statistics:
    """The same statistics with random rows, of the second moments that they say."""
    generator = torch.Generator().manual_seed(3)
    shared: dict[str, torch.Tensor] = {}
    layers = {}
    for name, layer in statistics.layers.items():
        shape = shapes[name]
        width = shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1)
        group = re.sub(r"(attn1)\.to_[qkv]$|(attn2)\.to_[kv]$", r"\1\2.shared", name)
        if group not in shared:
            # Rows of half as many directions as columns and some noise: inputs of real layers are correlated.
            mixed = torch.randn(rows, max(8, width // 8), generator=generator)
            basis = torch.randn(mixed.shape[1], width, generator=generator) / mixed.shape[1] ** 0.5
            shared[group] = (mixed @ basis + 0.3 * torch.randn(rows, width, generator=generator)).half()
        layers[name] = replace(layer, rows=shared[group], shape=shape)
    return replace(statistics, layers=layers)


def run(source: Path, statistics: Path, target: Path, device: str) -> None:
    """The job itself; prints seconds and peak memory as JSON."""
    before = resident("VmHWM")
    started = time.perf_counter()
    with CheckpointReader(source) as reader:
        measured = load_statistics(statistics)
        plan = make_plan(
            match_source(reader, measured), QuantizeOptions(mode="v2", keep_ratio=0.0, rounding="calibrated")
        )
        report = quantize_checkpoint(match_source(reader, measured), plan, target, overwrite=True, device=device)
    figures = {
        "seconds": time.perf_counter() - started,
        "peak": resident("VmHWM"),
        "before": before,
        "gain": report.calibrated_gain,
        "layers": report.calibrated_layers,
    }
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--share", type=float, default=1.0, help="of the transformer blocks, for a quick look")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    source, statistics, target = (args.folder / f"calibrated_{name}.safetensors" for name in ("in", "rows", "out"))
    if args.job:
        run(source, statistics, target, args.device)
        return
    make_checkpoint(source, args.share)
    with CheckpointReader(source) as reader:
        shapes = {layer: info.shape for layer, info in layer_weights(reader, PREFIX).items()}
        save_statistics(with_rows(make_statistics(reader), shapes, args.rows), statistics)
    sizes = [path.stat().st_size / 1e9 for path in (source, statistics)]
    print(
        f"checkpoint {sizes[0]:.2f} GB, statistics {sizes[1]:.2f} GB, {os.cpu_count()} cores, {args.device}", flush=True
    )
    command = [
        sys.executable,
        "-m",
        "benchmarks.calibrated",
        "--folder",
        str(args.folder),
        "--device",
        args.device,
        "--job",
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"calibrated V2 of {found['layers']} layers: {found['seconds']:.0f} s, peak {found['peak'] / 1e9:.2f} GB "
        f"(of it {found['before'] / 1e9:.2f} GB before it began), output error {found['gain']:.3f} of nearest"
    )
    for path in (source, statistics, target):
        path.unlink()


if __name__ == "__main__":
    main()
