"""Seconds a step on a CPU, exact and fast, beside the FP16 original: the UNet of SSD-1B or SDXL, with random weights.

    python -m benchmarks.compute --comfyui DIR --folder DIR [--model ssd-1b] [--sizes 256 512] [--rounds 3]

One image without guidance. All in one process and in turns, so that what else the machine does falls on all alike; the
fastest of the rounds, by the clock and in seconds of the processor (with one thread the same on a machine that does
nothing else). The original is opened by ComfyUI's own loader, which holds it in float32 on a CPU; comfy-int8
by both loaders, where ComfyUI knows the format. Files are kept in the folder (SSD-1B: 7 GB, SDXL: 13 GB).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import inprocess_comfy
from .memory import resident
from .quantize import PREFIX, make_statistics, write_random
from .sdxl_shapes import CONTEXT, sdxl_unet, ssd_1b_unet

MODELS = {"ssd-1b": ssd_1b_unet, "sdxl": sdxl_unet}
FORMS = ("v2", "int8", "comfy-int8")
JOBS = (
    ("FP16, stock", "fp16", None),
    ("FP16, HSWQ Loader", "fp16", False),
    ("V2, exact", "v2", False),
    ("int8, exact", "int8", False),
    ("int8, fast", "int8", True),
    ("comfy-int8, stock", "comfy-int8", None),
    ("comfy-int8, fast", "comfy-int8", True),
)
"""Name, file, and whether our loader is to compute fast; ``None`` is ComfyUI's own loader."""


def write_files(folder: Path, model: str) -> dict[str, Path]:
    """Those that are not there yet."""
    from hswq_core.files.checkpoint import CheckpointReader
    from hswq_core.options import QuantizeOptions
    from hswq_core.planning import make_plan, match_source
    from hswq_core.quantize_file import quantize_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    files = {form: folder / f"{model}_{form}.safetensors" for form in ("fp16", *FORMS)}
    if not files["fp16"].exists():
        write_random(files["fp16"], {PREFIX + name: ("F16", shape) for name, shape in MODELS[model]().items()})
    for form in FORMS:
        if not files[form].exists():
            with CheckpointReader(files["fp16"]) as reader:
                matched = match_source(reader, make_statistics(reader))
                plan = make_plan(matched, QuantizeOptions(mode=form, keep_ratio=0.0))
                quantize_checkpoint(matched, plan, files[form])
    return files


def opened(path: Path, fast: bool | None) -> Any:
    import comfy.sd
    from hswq.loader.load import load_diffusion_model  # type: ignore[import-not-found]

    return comfy.sd.load_diffusion_model(str(path)) if fast is None else load_diffusion_model(path, fast=fast)[0]


def stepper(model: Any, size: int) -> Callable[[], tuple[float, float]]:
    """A function that makes one step of sampling, and returns its seconds by the clock and of the processor."""
    from hswq.loader.latents import empty_latent  # type: ignore[import-not-found]
    from hswq.loader.sample import sample  # type: ignore[import-not-found]

    random = torch.Generator().manual_seed(0)
    text = torch.randn(1, 77, CONTEXT, generator=random)
    positive = [[text, {"pooled_output": torch.randn(1, 1280, generator=random)}]]
    latent = empty_latent(model, 1, size, size)

    def step() -> tuple[float, float]:
        started, worked = time.perf_counter(), time.process_time()
        sample(
            model, positive, positive, latent, steps=1, cfg=1.0, sampler="euler", scheduler="normal", seed=0
        )  # fmt: skip
        return time.perf_counter() - started, time.process_time() - worked

    return step


def main() -> None:
    parser = inprocess_comfy.parser(__doc__, folder=True)
    parser.add_argument("--model", choices=MODELS, default="ssd-1b")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    inprocess_comfy.start(args.comfyui)
    import comfy.ops

    files = write_files(args.folder, args.model)
    knows_int8 = "int8_tensorwise" in Path(comfy.ops.__file__).read_text(encoding="utf-8")
    jobs = [job for job in JOBS if knows_int8 or job[1:] != ("comfy-int8", None)]
    models = {name: opened(files[form], fast) for name, form, fast in jobs}
    print(f"{args.model}, {torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    for size in args.sizes:
        steps = {name: stepper(model, size) for name, model in models.items()}
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
        for number in range(args.rounds + 1):
            for name, step in steps.items():
                taken = step()
                if number:  # the first touches every weight for the first time
                    seconds[name].append(taken)
        least = {name: [min(kind) for kind in zip(*each, strict=True)] for name, each in seconds.items()}
        for name, each in least.items():
            shares = [
                f"{own:>9.2f} s{own / first:>6.2f}" for own, first in zip(each, least["FP16, stock"], strict=True)
            ]
            print(f"{size} x {size}  {name:<20}{''.join(shares)}", flush=True)
    print(f"{resident('VmHWM') / 1e9:.1f} GB at most")


if __name__ == "__main__":
    main()
