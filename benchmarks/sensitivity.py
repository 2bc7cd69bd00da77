"""Sensitivity by gradients against one layer at a time: the same choice of layers, in what part of the time?

    python -m benchmarks.sensitivity --comfyui DIR --folder DIR

On the bundled tiny model, V2, calibrated rounding, at the bytes of the model card's keep ratios. The figures are the
UNet's error on held-out prompts (see ``benchmarks.fidelity``), seconds, and the rank correlation of the impacts.
"""

from __future__ import annotations

import time

import torch

from . import fidelity, inprocess_comfy


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
    for method in ("exact", "gradient"):
        begin = time.perf_counter()
        found[method] = fidelity.measure(model, statistics, "v2", "nearest", method)
        seconds[method] = time.perf_counter() - begin
    impacts = {method: measured.impacts("v2 nearest") for method, measured in found.items()}
    correlation = torch.corrcoef(torch.stack([ranks(values) for values in impacts.values()]))[0, 1]
    print(f"{len(impacts['exact'])} layers: rank correlation {correlation:.4f}")
    print(", ".join(f"{method} {s:.1f} s" for method, s in seconds.items()), end="")
    print(f": 1/{seconds['exact'] / seconds['gradient']:.1f}")
    for ratio in (0.1, 0.25):
        plain = fidelity.write(original, candidate, statistics, mode="v2", keep_ratio=ratio)
        budget, error = str(plain.stat().st_size), {}
        for method, measured in found.items():
            file = fidelity.write(
                original, candidate, measured, mode="v2", budget=budget, selection="measured", rounding="calibrated"
            )
            error[method] = judge.figures(file)["unet_error"]
        print(f"bytes of keep ratio {ratio:g}: UNet error by gradients over one at a time ", end="")
        print(f"{error['gradient'] / error['exact']:.3f}", flush=True)


if __name__ == "__main__":
    main()
