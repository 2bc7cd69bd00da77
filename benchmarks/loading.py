"""Time and memory from a checkpoint of SDXL's size to MODEL, CLIP and VAE: HSWQ's loader beside the stock one.

    python -m benchmarks.loading --comfyui DIR --folder DIR      # 12 GB free, ten minutes

Random weights in SDXL's real shapes, text encoders and VAE included, in FP16 (6.9 GB) and as V2 with nothing kept. Each
load is a process of its own, with the file in the page cache; the median of three. *ready* is when every page of every
weight of the UNet has been read, as the first sampling step would: mapped ones stay in the file until then. *own* is
memory that no file backs, of the whole process: before, at most while it loads, and at the end. The peak is allowed to
be the file and 1 GB.
"""

from __future__ import annotations

import json
import statistics as stats
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from . import inprocess_comfy
from .memory import resident
from .quantize import make_checkpoint, make_statistics

JOBS = {
    "stock, FP16": ("", "fp16"),
    "FP16, memory": ("memory", "fp16"),
    "FP16, mapped": ("mapped", "fp16"),
    "V2, memory": ("memory", "v2"),
    "V2, mapped": ("mapped", "v2"),
}
"""Each with how HSWQ Loader reads it, and the file."""
ALLOWED = 1e9


class Peak:
    """The most memory of this process's own, looked at every few milliseconds until ``stop``."""

    def __init__(self) -> None:
        self.own = resident("RssAnon")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.005):
            self.own = max(self.own, resident("RssAnon"))

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return max(self.own, resident("RssAnon"))


def parts(parameter: torch.Tensor) -> list[torch.Tensor]:
    from hswq.loader.quantized_tensor import codes_and_scale, is_quantized  # type: ignore[import-not-found]

    return list(codes_and_scale(parameter)) if is_quantized(parameter) else [parameter]


def load(reading: str, path: Path) -> dict[str, float]:
    """One load in this process."""
    import comfy.sd
    from hswq.loader.load import load_checkpoint  # type: ignore[import-not-found]

    before, peak = resident("RssAnon"), Peak()
    started = time.perf_counter()
    if reading:
        loaded: Any = load_checkpoint(path, reading=reading)
    else:
        # On a CPU it would expand the weights to float32; on a GPU it holds FP16, as asked for here.
        loaded = comfy.sd.load_checkpoint_guess_config(str(path), model_options={"dtype": torch.float16})
    seconds = time.perf_counter() - started
    tensors = [t for p in loaded[0].model.diffusion_model.parameters() for t in parts(p)]
    for tensor in tensors:
        tensor.flatten().view(torch.uint8)[::4096].sum()
    ready = time.perf_counter() - started
    most, held = peak.stop(), resident("RssAnon")
    return {"seconds": seconds, "ready": ready, "before": before, "peak": most, "held": held}


def make_files(folder: Path) -> None:
    from hswq_core import quantize
    from hswq_core.files.checkpoint import CheckpointReader

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "fp16.safetensors"
    if not source.exists():
        make_checkpoint(source, 1.0)
    with CheckpointReader(source) as reader:
        quantize(reader, folder / "v2.safetensors", make_statistics(reader), mode="v2", keep_ratio=0.0, overwrite=True)


def main() -> None:
    parser = inprocess_comfy.parser(__doc__, folder=True)
    parser.add_argument("--job", choices=JOBS, help="one load in this process, as JSON")
    args = parser.parse_args()
    if args.job:
        reading, file = JOBS[args.job]
        inprocess_comfy.start(args.comfyui)
        print(json.dumps(load(reading, args.folder / f"{file}.safetensors")))
        return
    make_files(args.folder)
    print(f"{'':<14}{'file GB':>9}{'s':>7}{'ready s':>9}{'own before':>12}{'peak':>7}{'at the end':>12}{'allowed':>9}")
    command = [sys.executable, "-m", "benchmarks.loading", "--comfyui", str(args.comfyui), "--folder", str(args.folder)]
    for job, (_, file) in JOBS.items():
        runs = []
        for _ in range(4):  # the first fills the page cache
            done = subprocess.run([*command, "--job", job], check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        median = {key: stats.median(run[key] for run in runs[1:]) for key in runs[0]}
        size = (args.folder / f"{file}.safetensors").stat().st_size
        own = "".join(f"{median[key] / 1e9:>{width}.2f}" for key, width in (("before", 12), ("peak", 7), ("held", 12)))
        figures = f"{size / 1e9:>9.2f}{median['seconds']:>7.2f}{median['ready']:>9.2f}{own}"
        print(f"{job:<14}{figures}{(size + ALLOWED) / 1e9:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
