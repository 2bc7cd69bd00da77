"""What ``compute: fast`` costs in fidelity, on the bundled tiny model with nothing kept.

    python -m benchmarks.fast_fidelity --comfyui DIR [--images 8]

The measures are those of benchmarks.fidelity; the UNet error is the median of the held-out prompts, 25 steps each. On a
device without FP8 arithmetic the factors of FP8 layers are rounded as its kernel gets them and multiplied in float32:
the kernel's own result but for the order of its additions (tests/core/test_matmul.py).
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hswq_core.grids import E4M3

from . import inprocess_comfy
from .fidelity import Judge, calibrate, write

INT8 = {"mode": "int8", "rounding": "calibrated", "keep_ratio": 0.0}
FILES: dict[str, dict[str, Any]] = {
    "int8": INT8,
    "int8, rotated": {**INT8, "rotate": True},
    "V2": {"mode": "v2", "rounding": "nearest", "keep_ratio": 0.0},
    "V2, keep 0.10": {"mode": "v2", "rounding": "nearest", "keep_ratio": 0.1},
}


def rounded_linear(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What ``fp8_linear`` computes, with the rounded factors multiplied in float32."""
    input_scale = (x.abs().amax().float() / E4M3.largest).clamp(min=1e-12)
    rounded = E4M3.dequantize(E4M3.quantize(x.float(), input_scale), input_scale)
    return torch.nn.functional.linear(rounded, E4M3.dequantize(codes, scale), bias).to(x.dtype)


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--images", type=int, default=8)
    args = parser.parse_args()
    inprocess_comfy.start(args.comfyui)
    from hswq.loader import fast as loader  # type: ignore[import-not-found]

    if not loader.multiplies_fp8():
        loader.fp8_linear, loader.multiplies_fp8 = rounded_linear, lambda: True
    original = inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors"
    with TemporaryDirectory() as folder:
        _, statistics = calibrate(original, Path(folder) / "statistics.safetensors")
        judge = Judge(original, args.images)
        for name, options in FILES.items():
            file = write(original, Path(folder) / f"{name}.safetensors", statistics, **options)
            for fast in (False, True):
                error = median(judge.unet_errors(inprocess_comfy.LoadedModel(file, fast=fast)))
                figures = judge.figures(file, fast=fast)
                how = "fast" if fast else "exact"
                print(f"{name:<14} {how:<6} UNet error {error:.2e}, SSIM {figures['ssim']:.4f}", flush=True)


if __name__ == "__main__":
    main()
