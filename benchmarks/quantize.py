"""Time, memory and exactness of the quantizer at SDXL's true size, on random weights.

    python -m benchmarks.quantize files  --folder DIR     # wall time and peak memory, two file sizes
    python -m benchmarks.quantize search --layers 200     # the search against the published reference's

``files`` writes a random FP16 checkpoint of SDXL's geometry, text encoders and VAE included (6.9 GB), and for each mode
starts a process of its own. The baseline is a plain cast: the same reader, threads, rounding and writer, without
histogram and search.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hswq_core.calibration import LayerStatistics, Statistics
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.dtypes import tensor_bytes
from hswq_core.files.layers import layer_weights
from hswq_core.files.writer import CheckpointWriter, FileLayout
from hswq_core.grids import E4M3
from hswq_core.grids.histogram import histogram
from hswq_core.grids.scale_search import scale_of, search_amax
from hswq_core.options import QuantizeOptions
from hswq_core.parallel import ordered_map
from hswq_core.planning import make_plan, match_source
from hswq_core.quantize_file import quantize_checkpoint
from hswq_core.rounding.weight import squared_error

from .memory import resident
from .reference import reference_amax
from .sdxl_rest import sdxl_rest
from .sdxl_shapes import Shape, sdxl_unet

PREFIX = "model.diffusion_model."
JOBS = ("cast", "v1", "v2", "comfy", "v2-error", "mixed")
_SHARE = 0.4
"""Of the diffusion model's bytes that *mixed* has."""


def make_checkpoint(path: Path, share: float, *, pass_through: bool = True) -> None:
    """A random checkpoint; ``share`` of the transformer blocks, and of the rest's tensors if there is to be a rest."""
    unet = {
        k: s for k, s in sdxl_unet().items() if share == 1 or ".transformer_blocks." not in k or _block(k) < 10 * share
    }
    layout = {PREFIX + k: ("F16", s) for k, s in unet.items()}
    if pass_through:
        rest = sdxl_rest()
        layout |= {k: ("F16", s) for k, s in list(rest.items())[: int(share * len(rest))]}
    write_random(path, layout)


def write_random(path: Path, layout: Mapping[str, tuple[str, Shape]]) -> None:
    """A checkpoint of random FP16 numbers, as large as weights of their shapes are."""
    pool = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).half()
    start = 0

    def values(count: int, scale: float) -> Iterator[bytes]:
        nonlocal start
        while count:
            size = min(count, len(pool) - start)
            yield tensor_bytes(pool[start : start + size] * scale)
            count, start = count - size, (start + size + 12345) % (len(pool) - 1)

    with CheckpointWriter(path, FileLayout(dict(layout), {"title": "random"}), overwrite=True) as writer:
        for key, (_, shape) in layout.items():
            fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
            writer.write(key, values(math.prod(shape), 0.5 / math.sqrt(fan_in)))


def _block(key: str) -> int:
    return int(key.split(".transformer_blocks.")[1].split(".")[0])


def make_statistics(source: CheckpointReader) -> Statistics:
    generator = torch.Generator().manual_seed(1)
    layers = {}
    for layer, info in layer_weights(source, PREFIX).items():
        importance = torch.rand(info.shape[1], generator=generator, dtype=torch.float64) + 0.01
        sums = torch.stack([importance, importance * 0, importance**2]) * 1000
        output = torch.tensor([1000.0, 0.0, 1000 * float(torch.rand(1, generator=generator))], dtype=torch.float64)
        layers[layer] = LayerStatistics(1000, sums, output)
    return Statistics(layers, runs=8, samples=32, steps=200)


def with_impacts(statistics: Statistics) -> Statistics:
    """Impacts for every form of *mixed* as they are found: over four powers of ten, and a fourth for each bit more."""
    generator = torch.Generator().manual_seed(2)
    base = {name: 10.0 ** -float(3 + 4 * torch.rand(1, generator=generator)) for name in statistics.layers}
    for purpose in QuantizeOptions(mode="mixed").purposes:
        impacts = {name: impact * 4.0 ** (4 - purpose.form.bits) for name, impact in base.items()}
        statistics = statistics.with_impacts(impacts, str(purpose))
    return statistics


def _options(job: str, source: CheckpointReader) -> QuantizeOptions:
    if job == "mixed":
        unet = sum(info.nbytes for key, info in source.tensors.items() if key.startswith(PREFIX))
        return QuantizeOptions(mode=job, budget=str(source.nbytes - round((1 - _SHARE) * unet)))
    mode, _, selection = job.partition("-")
    chosen: Any = selection or "variance"
    return QuantizeOptions(mode=mode, keep_ratio=0.0, selection=chosen)


def run_job(job: str, path: Path, target: Path) -> None:
    """One mode in a process of its own; prints seconds and peak memory as JSON."""
    with CheckpointReader(path) as source:
        statistics = make_statistics(source)
        statistics = with_impacts(statistics) if job == "mixed" else statistics
        before = resident("VmHWM")
        started, planned = time.perf_counter(), 0.0
        if job == "cast":
            plain_cast(source, target)
        else:
            plan = make_plan(match_source(source, statistics), _options(job, source))
            planned = time.perf_counter() - started
            quantize_checkpoint(match_source(source, statistics), plan, target, overwrite=True)
        seconds = time.perf_counter() - started
    peak = resident("VmHWM")
    found = {"seconds": seconds, "planned": planned, "peak": peak, "before": before, "bytes": target.stat().st_size}
    print(json.dumps(found))


def plain_cast(source: CheckpointReader, target: Path) -> None:
    """Read, cast, write: what any FP8 conversion must do."""
    plan = make_plan(match_source(source, None), QuantizeOptions(mode="v1", keep_ratio=0.0))
    keys = sorted(source.tensors, key=lambda key: source.tensors[key].begin)
    cast = {layer.key for layer in plan.quantized}

    def convert(key: str) -> torch.Tensor | None:
        return E4M3.quantize(source.tensor(key)) if key in cast else None

    with CheckpointWriter(target, FileLayout(plan.layout, {}), overwrite=True) as writer:
        for key, codes in zip(keys, ordered_map(convert, keys), strict=True):
            writer.write(key, source.chunks(key) if codes is None else [tensor_bytes(codes)])


def files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "hswq_benchmark_out.safetensors"
    for share in (0.4, 1.0):
        path = folder / f"hswq_benchmark_{share}.safetensors"
        make_checkpoint(path, share)
        print(f"\n{path.stat().st_size / 1e9:.2f} GB, {os.cpu_count()} cores, torch {torch.__version__}")
        print(f"{'job':<10}{'seconds':>9}{'of cast':>9}{'peak MB':>9}{'file GB':>9}")
        base = 0.0
        # The first pass fills the page cache, and the last shows how steady the machine was.
        for number, job in enumerate(("cast", *JOBS, "cast")):
            command = [sys.executable, "-m", "benchmarks.quantize", "job", job, str(path), str(target)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            target.unlink()
            if number == 1:
                base = result["seconds"]
            name = "(warm-up)" if number == 0 else job
            ratio = f"{result['seconds'] / base:.2f}" if base else ""
            figures = f"{result['seconds']:>9.1f}{ratio:>9}{result['peak'] / 1e6:>9.0f}{result['bytes'] / 1e9:>9.2f}"
            print(f"{name:<10}{figures}", flush=True)
        path.unlink()


def search(count: int) -> None:
    """Speed and result of both searches on layers of SDXL's shapes and varied distributions."""
    generator = torch.Generator().manual_seed(2)
    shapes = [s for k, s in sdxl_unet().items() if k.endswith(".weight") and len(s) in (2, 4)]
    ours = theirs = 0.0
    worse = 0
    ratios = []
    for number in range(count):
        shape = shapes[int(torch.randint(len(shapes), (1,), generator=generator))]
        weight = DISTRIBUTIONS[number % len(DISTRIBUTIONS)](torch.randn(shape, generator=generator), generator).half()
        importance = torch.rand(shape[1], generator=generator) ** 2 + 1e-3
        started = time.perf_counter()
        distribution = histogram(weight, importance)
        found = search_amax(distribution, E4M3)
        ours += time.perf_counter() - started
        started = time.perf_counter()
        amax = reference_amax(weight, importance)
        theirs += time.perf_counter() - started
        error = squared_error(distribution, scale_of(amax, E4M3), E4M3) / float(distribution.weights.sum())
        worse += found.error > error
        ratios.append(found.error / error if error else 1.0)
    mean = sum(ratios) / len(ratios)
    faster = theirs / ours
    print(f"{count} layers of SDXL's shapes, {len(DISTRIBUTIONS)} distributions, {os.cpu_count()} cores")
    print(
        f"reference {theirs / count * 1e3:.0f} ms a layer, ours {ours / count * 1e3:.1f} ms: {faster:.0f} times faster"
    )
    print(
        f"weighted error, ours over reference's: mean {mean:.4f}, worst {max(ratios):.6f}; above it in {worse} layers"
    )


def _outliers(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return weight * 0.02 * (1 + 15 * (torch.rand(weight.shape, generator=generator) < 1e-4))


def _heavy_tails(weight: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    return (weight.abs() ** 1.8 * weight.sign() * 0.01).clamp(-10, 10)


def _by_channel(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    spread = torch.rand(weight.shape[0], generator=generator) * 4 - 2
    return weight * 0.02 * torch.exp(spread).view(-1, *[1] * (weight.dim() - 1))


DISTRIBUTIONS: list[Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = [
    lambda w, _: w * 0.02,
    lambda w, _: w * 0.5 / math.sqrt(math.prod(w.shape[1:])),
    lambda w, _: w.sign() * (torch.erf(w.abs() / math.sqrt(2))) * 0.05,  # uniform
    _outliers,
    _heavy_tails,
    _by_channel,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    files_parser = commands.add_parser("files")
    files_parser.add_argument("--folder", type=Path, required=True, help="with 13 GB free")
    search_parser = commands.add_parser("search")
    search_parser.add_argument("--layers", type=int, default=200)
    job_parser = commands.add_parser("job")
    job_parser.add_argument("job", choices=JOBS)
    job_parser.add_argument("path", type=Path)
    job_parser.add_argument("target", type=Path)
    args = parser.parse_args()
    if args.command == "files":
        files(args.folder)
    elif args.command == "search":
        search(args.layers)
    else:
        run_job(args.job, args.path, args.target)


if __name__ == "__main__":
    main()
