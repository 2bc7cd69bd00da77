"""What multiplying in FP8 costs in fidelity: the loaders' ``fp8_matmul`` on the bundled tiny model.

    python -m benchmarks.fp8_matmul --comfyui DIR [--images 32]

torch multiplies in FP8 on CPUs, too, slowly, and rounds as on a GPU. The measures are those of benchmarks.fidelity.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from . import studio
from .fidelity import Judge, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI checkout")
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args()
    studio.start(args.comfyui)
    from hswq.loader import load  # type: ignore[import-not-found]

    original = studio.TINY_MODEL / "hswq_tiny.safetensors"
    judge = Judge(original, args.images)
    with TemporaryDirectory() as folder:
        v2 = write(original, Path(folder) / "v2.safetensors", None, mode="v2", keep_ratio=0.0)
        for name, available in (("computed in full", False), ("multiplied in FP8", True)):
            # The loaders ask ComfyUI, which knows of FP8 on GPUs alone.
            load.multiplies_fp8 = lambda available=available: available
            figures = judge.figures(v2, fp8_matmul=available)
            measures = ", ".join(f"{key} {figures[key]:.3g}" for key in ("unet_error", "latent_mse", "ssim"))
            print(f"V2, nothing kept, {name}: {measures}", flush=True)


if __name__ == "__main__":
    main()
