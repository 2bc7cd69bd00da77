"""SDXL's true size on a GPU, random weights: sampling speed, memory, calibration's overhead, time to quantize.

    python -m benchmarks.gpu --comfyui DIR --folder DIR       # 20 GB free, about four minutes

1024 x 1024 pixels with guidance, so two latents a step. Speeds are ratios of alternating rounds in one process.
"""

from __future__ import annotations

import statistics as stats
import time
from collections.abc import Callable
from typing import Any

import torch

from . import inprocess_comfy
from .quantize import make_checkpoint

SIZE = 1024
STEPS = 12


def conditioning(seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280, generator=generator)
    return [[torch.randn(1, 77, 2048, generator=generator), {"pooled_output": pooled}]]


def draw(model: Any, steps: int = STEPS, callback: Callable[..., None] | None = None, images: int = 1) -> float:
    """Seconds that sampling takes."""
    from hswq.loader.latents import empty_latent  # type: ignore[import-not-found]
    from hswq.loader.sample import sample  # type: ignore[import-not-found]

    torch.cuda.synchronize()
    started = time.perf_counter()
    sample(
        model, conditioning(0), conditioning(1), empty_latent(model, images, SIZE, SIZE), steps=steps, cfg=7.0,
        sampler="euler", scheduler="normal", seed=0, callback=callback,
    )  # fmt: skip
    torch.cuda.synchronize()
    return time.perf_counter() - started


def alternate(models: dict[str, Any], images: int, rounds: int = 4) -> dict[str, float]:
    """Median seconds by model, one after the other in every round, the first round thrown away."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            seconds = draw(model, images=images)
            if number:
                times[name].append(seconds)
    return {name: stats.median(seconds) for name, seconds in times.items()}


def weights_in_vram(model: Any) -> int:
    """Bytes that the allocator gained when the diffusion model was put on the GPU."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() - before


def copies_to_host(model: Any) -> int:
    """Device-to-host copies from the third to the fifth step of a run, as the profiler saw them."""
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU])

    def step(number: int, *_: Any) -> None:
        if number == 2:
            profiler.start()
        elif number == 4:
            torch.cuda.synchronize()
            profiler.stop()

    draw(model, 8, step)
    return sum("DtoH" in event.name for event in profiler.events() or [])


def main() -> None:
    args = inprocess_comfy.parser(__doc__, folder=True).parse_args()
    inprocess_comfy.start(args.comfyui)
    import comfy.sd
    from hswq.hswq_core.calibration.session import CalibrationSession  # type: ignore[import-not-found]
    from hswq.hswq_core.files.checkpoint import CheckpointReader  # type: ignore[import-not-found]
    from hswq.hswq_core.options import QuantizeOptions  # type: ignore[import-not-found]
    from hswq.hswq_core.planning import make_plan  # type: ignore[import-not-found]
    from hswq.hswq_core.quantize_file import quantize_checkpoint  # type: ignore[import-not-found]
    from hswq.loader.calibrate import calibrated_clone, model_fingerprint  # type: ignore[import-not-found]
    from hswq.loader.load import load_diffusion_model  # type: ignore[import-not-found]

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    args.folder.mkdir(parents=True, exist_ok=True)
    source = args.folder / "random_sdxl.safetensors"
    make_checkpoint(source, 1.0)
    stock = comfy.sd.load_diffusion_model(str(source))

    # Calibration: plain and calibrated runs of one model by turns.
    weights_in_vram(stock)
    fingerprint = model_fingerprint(stock)
    sessions = {
        rows: CalibrationSession.open(args.folder / f"rows{rows}.safetensors", fingerprint, reset=True)
        for rows in (0, 1024)
    }
    clones = {f"calibrated, {rows} rows": calibrated_clone(stock, s, rows) for rows, s in sessions.items()}

    def in_steps(model: Any, images: int) -> float:
        """Seconds of the steps alone, without what is done once when the run ends."""
        marks: list[float] = []

        def mark(*_: Any) -> None:
            torch.cuda.synchronize()
            marks.append(time.perf_counter())

        draw(model, STEPS, mark, images)
        return marks[-1] - marks[1]

    for images in (1, 4):
        turns: dict[str, list[float]] = {}
        for _ in range(4):
            for name, model in {"plain": stock, **clones}.items():
                turns.setdefault(name, []).append(in_steps(model, images))
        base = stats.median(turns["plain"][1:])
        for name, seconds in turns.items():
            ratio = stats.median(seconds[1:]) / base
            print(f"sampling steps, batch of {images}, {name}: {ratio:.3f} of plain's {base:.2f} s", flush=True)
    print(f"device-to-host copies in two steps: plain {copies_to_host(stock)}", end="")
    print("".join(f"; {name} {copies_to_host(model)}" for name, model in clones.items()), flush=True)
    for rows, session in sessions.items():
        print(f"statistics on disk, {rows} rows: {session.path.stat().st_size / 1e6:,.1f} MB", flush=True)

    def quantize(rounding: str) -> Any:
        started = time.perf_counter()
        with CheckpointReader(source) as reader:
            measured = sessions[1024].statistics
            plan = make_plan(reader, measured, QuantizeOptions(mode="v2", keep_ratio=0.1, rounding=rounding))
            report = quantize_checkpoint(reader, plan, measured, target, overwrite=True, device="cuda")
        print(f"quantize to V2, {rounding}: {time.perf_counter() - started:.1f} s; {report}", flush=True)
        return report

    # The V2 model against the stock loader's FP16.
    target = args.folder / "v2.safetensors"
    report = quantize("nearest")
    v2, _ = load_diffusion_model(target)
    memory = {"FP16": weights_in_vram(stock), "V2": weights_in_vram(v2)}
    print(f"weights in VRAM: FP16 {memory['FP16'] / 1e6:,.0f} MB, V2 {memory['V2'] / 1e6:,.0f} MB, ", end="")
    print(f"{memory['V2'] / memory['FP16']:.3f}; planned {report.plan.unet_bytes / 1e6:,.0f} MB", flush=True)
    fp8, _ = load_diffusion_model(target, fp8_matmul=True)
    for images in (1, 4):
        speed = alternate({"FP16": stock, "V2": v2, "V2 multiplied in FP8": fp8}, images)
        for name, seconds in speed.items():
            ratio = speed["FP16"] / seconds
            print(f"{STEPS} steps, batch of {images}, {name}: {seconds:.2f} s, {ratio:.3f} of FP16's speed", flush=True)
    del v2, fp8
    quantize("calibrated")


if __name__ == "__main__":
    main()
