"""Time and memory from a file of SDXL's size to a MODEL: HSWQ's loader beside the stock one.

    python -m benchmarks.loading --comfyui DIR --folder DIR      # 8 GB free, two minutes

A random UNet of SDXL's geometry in FP16 (5.1 GB) and as V2 with nothing kept. Each load is a process of its own, with
the file in the page cache; the median of three. *ready* is when every page of every weight has been read, as the first
sampling step would: our weights stay mapped to the file until then.
"""

from __future__ import annotations

import json
import statistics as stats
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from . import inprocess_comfy
from .memory import resident
from .quantize import make_checkpoint, make_statistics

JOBS = {"stock, FP16": ("stock", "fp16"), "HSWQ, FP16": ("hswq", "fp16"), "HSWQ, V2": ("hswq", "v2")}


def parts(parameter: torch.Tensor) -> list[torch.Tensor]:
    from hswq.loader.compat import codes_and_scale, is_quantized  # type: ignore[import-not-found]

    return list(codes_and_scale(parameter)) if is_quantized(parameter) else [parameter]


def load(loader: str, path: Path) -> dict[str, float]:
    """One load in this process."""
    import comfy.sd
    from hswq.loader.load import load_diffusion_model  # type: ignore[import-not-found]

    before = resident("VmRSS")
    started = time.perf_counter()
    if loader == "stock":
        # On a CPU it would expand the weights to float32; on a GPU it holds FP16, as asked for here.
        model: Any = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float16})
    else:
        model = load_diffusion_model(path)[0]
    seconds = time.perf_counter() - started
    tensors = [t for p in model.model.diffusion_model.parameters() for t in parts(p)]
    for tensor in tensors:
        tensor.flatten().view(torch.uint8)[::4096].sum()
    ready = time.perf_counter() - started
    return {
        "seconds": seconds,
        "ready": ready,
        "peak": resident("VmHWM") - before,
        "weights": sum(tensor.nbytes for tensor in tensors),
    }


def make_files(folder: Path) -> None:
    from hswq_core.files.checkpoint import CheckpointReader
    from hswq_core.options import QuantizeOptions
    from hswq_core.planning import make_plan, match_source
    from hswq_core.quantize_file import quantize_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "fp16.safetensors"
    make_checkpoint(source, 1.0, pass_through=False)
    with CheckpointReader(source) as reader:
        measured = make_statistics(reader)
        plan = make_plan(match_source(reader, measured), QuantizeOptions(mode="v2", keep_ratio=0.0))
        quantize_checkpoint(match_source(reader, measured), plan, folder / "v2.safetensors", overwrite=True)


def main() -> None:
    parser = inprocess_comfy.parser(__doc__, folder=True)
    parser.add_argument("--job", choices=JOBS, help="one load in this process, as JSON")
    args = parser.parse_args()
    if args.job:
        loader, file = JOBS[args.job]
        inprocess_comfy.start(args.comfyui)
        print(json.dumps(load(loader, args.folder / f"{file}.safetensors")))
        return
    make_files(args.folder)
    print(f"{'':<14}{'file MB':>9}{'MODEL s':>9}{'ready s':>9}{'weights MB':>12}{'peak - file MB':>16}")
    command = [sys.executable, "-m", "benchmarks.loading", "--comfyui", str(args.comfyui), "--folder", str(args.folder)]
    for job, (_, file) in JOBS.items():
        runs = []
        for _ in range(4):  # the first fills the page cache
            done = subprocess.run([*command, "--job", job], check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        median = {key: stats.median(run[key] for run in runs[1:]) for key in runs[0]}
        size = (args.folder / f"{file}.safetensors").stat().st_size
        figures = (
            f"{size / 1e6:>9,.0f}{median['seconds']:>9.2f}{median['ready']:>9.2f}{median['weights'] / 1e6:>12,.0f}"
        )
        print(f"{job:<14}{figures}{(median['peak'] - size) / 1e6:>16,.0f}", flush=True)


if __name__ == "__main__":
    main()
