"""What multiplying in FP8 costs in fidelity: ``compute: fast`` on the bundled tiny model.

    python -m benchmarks.fp8_matmul --comfyui DIR [--images 32]

The factors are rounded as the FP8 kernel gets them and then multiplied in float32: the kernel's own result but
for the order of its additions (tests/core/test_matmul.py), and many times faster on a CPU. The measures are those of
benchmarks.fidelity.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hswq_core.grids import E4M3

from . import inprocess_comfy
from .fidelity import Judge, write


def rounded_linear(
    x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """What ``fp8_linear`` computes, with the rounded factors multiplied in float32."""
    input_scale = (x.abs().amax().float() / E4M3.largest).clamp(min=1e-12)
    rounded = E4M3.dequantize(E4M3.quantize(x.float(), input_scale), input_scale)
    return torch.nn.functional.linear(rounded, E4M3.dequantize(codes, scale), bias).to(x.dtype)


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args()
    inprocess_comfy.start(args.comfyui)
    from hswq.loader import fast  # type: ignore[import-not-found]

    fast.fp8_linear = rounded_linear
    original = inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors"
    judge = Judge(original, args.images)
    with TemporaryDirectory() as folder:
        v2 = write(original, Path(folder) / "v2.safetensors", None, mode="v2", keep_ratio=0.0)
        for name, available in (("computed in full", False), ("multiplied in FP8", True)):
            # The loaders ask ComfyUI, which knows of FP8 on GPUs alone.
            fast.multiplies_fp8 = lambda available=available: available
            figures = judge.figures(v2, fast=available)
            measures = ", ".join(f"{key} {figures[key]:.3g}" for key in ("unet_error", "latent_mse", "ssim"))
            print(f"V2, nothing kept, {name}: {measures}", flush=True)


if __name__ == "__main__":
    main()
