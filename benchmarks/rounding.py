"""What each part of calibrated rounding gives: output error on held-out rows, over nearest rounding's.

    python -m benchmarks.rounding --comfyui DIR --folder DIR       # 1 GB of statistics, some minutes

Every eighth layer of the bundled tiny model that has enough rows; geometric means over the layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from . import fidelity, inprocess_comfy

HELD_OUT, EACH = 4096, 8
ROWS = (1024, 4096, 8192)


def main() -> None:
    args = inprocess_comfy.parser(__doc__, folder=True).parse_args()
    inprocess_comfy.start(args.comfyui)
    from hswq.hswq_core.calibration.rows import tensor_of  # type: ignore[import-not-found]
    from hswq.hswq_core.files.checkpoint import CheckpointReader  # type: ignore[import-not-found]
    from hswq.hswq_core.grids import E4M3  # type: ignore[import-not-found]
    from hswq.hswq_core.grids.channel_scales import search_channel_scales  # type: ignore[import-not-found]
    from hswq.hswq_core.grids.histogram import histogram  # type: ignore[import-not-found]
    from hswq.hswq_core.rounding import gptq  # type: ignore[import-not-found]
    from hswq.hswq_core.rounding.weight import find_scale  # type: ignore[import-not-found]

    args.folder.mkdir(parents=True, exist_ok=True)
    original = inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors"
    with patch.object(fidelity, "ROWS", HELD_OUT + ROWS[-1]):
        _, statistics = fidelity.calibrate(original, args.folder / "rounding.safetensors")
    layers = {
        name: layer for name, layer in sorted(statistics.layers.items()) if len(layer.rows) >= HELD_OUT + ROWS[-1] * 0.9
    }
    chosen = dict(list(layers.items())[::EACH])
    logs: dict[tuple[str, str, int], list[float]] = {}

    def damped(share: float) -> Callable[[torch.Tensor], float]:
        return lambda x: share * own_damping(x)

    own_damping = gptq.damping
    # Passes of refining, and the damping as a share of the one that is used.
    parts = {"error feedback alone": (0, 0.5), "and one pass": (1, 0.5), "three passes": (3, 0.5)}
    parts |= {"three, damped twice": (3, 1.0), "six": (6, 1.0), "six, damped thrice": (6, 1.5)}
    with CheckpointReader(original) as source:
        for name, layer in chosen.items():
            weight = source.tensor(f"model.diffusion_model.{name}.weight").float()
            shuffled = tensor_of(layer.rows)[
                torch.randperm(len(layer.rows), generator=torch.Generator().manual_seed(0))
            ]
            unseen, rows = shuffled[:HELD_OUT].float(), shuffled[HELD_OUT:]

            def lost(codes: torch.Tensor, scale: torch.Tensor, weight: Any = weight, unseen: Any = unseen) -> float:
                change = E4M3.dequantize(codes, scale.view(-1, *[1] * (weight.dim() - 1))) - weight
                return math.log(float((unseen @ change.flatten(1).t()).square().mean()))

            scale = find_scale(histogram(weight, layer.importance), E4M3, scaled=True)
            by_channel, _ = search_channel_scales(weight, layer.importance, E4M3)
            broad = by_channel.view(-1, *[1] * (weight.dim() - 1))
            for form, unit in (("V1", torch.ones(1)), ("V2", scale)):
                nearest = lost(E4M3.quantize(weight, unit), unit)
                for count in ROWS:
                    for part, (passes, share) in parts.items():
                        with patch.object(gptq, "PASSES", passes), patch.object(gptq, "damping", damped(share)):
                            found = gptq.round_calibrated(E4M3, weight, unit, rows[:count], layer.second_moment)
                        logs.setdefault((part, form, count), []).append(lost(found.codes, unit) - nearest)
            for count in ROWS:
                found = gptq.round_calibrated(E4M3, weight, by_channel, rows[:count], layer.second_moment)
                logs.setdefault(("scales by channel", "V2", count), []).append(lost(found.codes, by_channel) - nearest)
            logs.setdefault(("nearest, scales by channel", "V2", ROWS[0]), []).append(
                lost(E4M3.quantize(weight, broad), by_channel) - nearest
            )
    heads = [(form, count) for form in ("V1", "V2") for count in ROWS]
    print(f"{len(chosen)} layers, {HELD_OUT:,} held-out rows, torch {torch.__version__}")
    print(f"{'':<28}" + "".join(f"{f'{form}, {count:,}':>12}" for form, count in heads))
    for part in dict.fromkeys(key[0] for key in logs):
        values = [logs.get((part, *head)) for head in heads]
        figures = (f"{math.exp(sum(v) / len(v)):.3f}" if v else "" for v in values)
        print(f"{part:<28}" + "".join(f"{figure:>12}" for figure in figures))


if __name__ == "__main__":
    main()
