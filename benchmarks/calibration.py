"""What calibration costs while sampling on a CPU: calibrated over plain time, by turns, in one process.

    python -m benchmarks.calibration --comfyui DIR

The bundled tiny model (its layers take microseconds, so Python dominates), and a random UNet of four times its
width on 64 x 64 latents.
"""

from __future__ import annotations

import platform
import statistics as stats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import inprocess_comfy
from .prompts import CALIBRATION


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    inprocess_comfy.start(args.comfyui)
    print(f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    tiny = inprocess_comfy.LoadedModel(inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors")
    prompts = CALIBRATION[:4]
    compare("tiny model, 4 images, 25 steps", tiny.model, lambda m: tiny.latents(prompts, 0, m), args.rounds)
    wide = wide_model()
    compare(
        "UNet of 128 channels, 64 x 64 latents, 12 steps",
        wide,
        lambda m: tiny.latents(prompts[:1], 0, m, size=512, steps=12),
        args.rounds,
    )


def compare(name: str, model: Any, draw: Callable[[Any], object], rounds: int) -> None:
    from hswq.hswq_core.calibration.session import CalibrationSession  # type: ignore[import-not-found]
    from hswq.loader.calibrate import calibrated_clone, model_fingerprint  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        models = {"plain": model}
        for rows in (0, 1024):
            path = Path(folder) / f"{rows}.safetensors"
            session = CalibrationSession.open(path, model_fingerprint(model))
            models[f"{rows} rows"] = calibrated_clone(model, session, rows)
        times: dict[str, list[float]] = {name: [] for name in models}
        for number in range(rounds + 1):
            for key, candidate in models.items():
                started = time.perf_counter()
                draw(candidate)
                if number:
                    times[key].append(time.perf_counter() - started)
    plain = stats.median(times["plain"])
    figures = ", ".join(f"{key}: {stats.median(t) / plain:.3f}" for key, t in times.items() if key != "plain")
    print(f"{name}: plain {plain:.2f} s; calibrated over plain, {figures}", flush=True)


def wide_model() -> Any:
    """A random model of the tiny one's architecture, four times as wide."""
    import architecture
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops

    config = architecture.TinySDXL({**architecture.FULL_UNET_CONFIG, "model_channels": 128})
    config.custom_operations = comfy.ops.manual_cast
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5 / fan_in**0.5
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, device, device)


if __name__ == "__main__":
    main()
