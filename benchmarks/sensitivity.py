"""Sensitivity by gradients against one layer at a time: the same choice of layers, in what part of the time?

    python -m benchmarks.sensitivity --comfyui DIR --folder DIR

On the bundled tiny model, V2, nearest rounding, at the bytes of the model card's keep ratios. The figures are the
UNet's error on held-out prompts (see ``benchmarks.fidelity``), seconds, and the rank correlation of the impacts.
``few gradients`` is what HSWQ Quantize takes where it measures by itself.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from hswq_core.sensitivity.gradient import FEW_PROBES, FEW_VECTORS

from . import fidelity, inprocess_comfy

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "one at a time": ("exact", {}),
    "gradients": ("gradient", {}),
    "few gradients": ("gradient", {"probes": FEW_PROBES, "vectors": FEW_VECTORS}),
}


def ranks(values: dict[str, float]) -> torch.Tensor:
    return torch.tensor([values[name] for name in sorted(values)]).argsort().argsort().double()


def main() -> None:
    parser = inprocess_comfy.parser(__doc__, folder=True)
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args()
    inprocess_comfy.start(args.comfyui)
    args.folder.mkdir(parents=True, exist_ok=True)
    original = inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors"
    candidate = args.folder / "candidate.safetensors"
    model, statistics = fidelity.calibrate(original, args.folder / "sensitivity.safetensors")
    judge = fidelity.Judge(original, args.images)
    found, seconds = {}, {}
    for name, (method, more) in WAYS.items():
        begin = time.perf_counter()
        found[name] = fidelity.measure(model, statistics, "v2", "nearest", method, **more)
        seconds[name] = time.perf_counter() - begin
    exact = ranks(found["one at a time"].impacts("v2 nearest"))
    print(f"{len(exact)} layers, {fidelity.PROBES} probes")
    for name, measured in found.items():
        correlation = torch.corrcoef(torch.stack([exact, ranks(measured.impacts("v2 nearest"))]))[0, 1]
        share = seconds["one at a time"] / seconds[name]
        print(f"{name}: {seconds[name]:.1f} s, 1/{share:.1f}, rank correlation {correlation:.4f}", flush=True)
    for ratio in (0.1, 0.25):
        plain = fidelity.write(original, candidate, statistics, mode="v2", keep_ratio=ratio)
        budget, error = str(plain.stat().st_size), {}
        for name, measured in found.items():
            file = fidelity.write(original, candidate, measured, mode="v2", budget=budget, selection="measured")
            error[name] = judge.unet_error(inprocess_comfy.LoadedModel(file))
        ratios = ", ".join(f"{name} {each / error['one at a time']:.3f}" for name, each in error.items())
        print(f"bytes of keep ratio {ratio:g}, UNet error over that of one at a time: {ratios}", flush=True)


if __name__ == "__main__":
    main()
