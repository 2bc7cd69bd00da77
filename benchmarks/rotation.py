"""What rotated inputs and FP8 by channel would give layers in integers, on real inputs that rounding did not see.

    python -m benchmarks.rotation --comfyui DIR --folder DIR
    python -m benchmarks.rotation --minilm             # as benchmarks.minilm

Linear layers of the bundled tiny model, or of all-MiniLM-L6-v2, calibrated rounding on half of the sampled rows, judged
on the other half: |x W_q^T - x W^T|^2 / |x W^T|^2, the mean over layers. *stock* is what ComfyUI's own loaders compute
from comfy-int8: they round each row of the input to integers, too. *best* takes the best of the rotations (groups of
16, 64 and 256 columns, or none) layer by layer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from hswq_core.calibration.rows import tensor_of
from hswq_core.calibration.statistics import Statistics
from hswq_core.grids import E4M3, INT8, Grid
from hswq_core.rounding.rotation import GROUPS, NONE, rotated, rounded_by_row
from hswq_core.rounding.weight import quantize_weight

Layer = tuple[torch.Tensor, torch.Tensor]
"""A weight [C_out, C_in], and sampled inputs [R, C_in]."""


def of_tiny_model(comfyui: Path, folder: Path) -> Iterator[Layer]:
    from . import fidelity, inprocess_comfy

    inprocess_comfy.start(comfyui)
    folder.mkdir(parents=True, exist_ok=True)
    original = inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors"
    model, statistics = fidelity.calibrate(original, folder / "rotation.safetensors")
    for name, module in model.unet.named_modules():
        if isinstance(module, torch.nn.Linear) and name in statistics.layers:
            yield module.weight.detach(), tensor_of(statistics.layers[name].rows)


def of_minilm() -> Iterator[Layer]:
    from .minilm import calibrate, linear_layers, load, sentences

    tokenizer, model = load()
    statistics: Statistics = calibrate(tokenizer, model, [text for half in sentences() for text in half], rows=4096)
    for name, module in linear_layers(model).items():
        rows = statistics.layers[name].rows
        assert rows is not None
        yield module.weight.detach(), tensor_of(rows)


def errors(weight: torch.Tensor, rows: torch.Tensor) -> dict[str, float]:
    """By what is done to the layer."""
    weight = weight.float()
    ours, others = rows[::2].float(), rows[1::2].float()
    exact = others @ weight.t()
    energy = float(exact.square().sum())

    def error(inputs: torch.Tensor, codes: torch.Tensor) -> float:
        return float((inputs @ codes.t() - exact).square().sum()) / energy

    found = {"FP8 by channel": error(others, _rounded(weight, ours, E4M3))}
    for group in (NONE, *GROUPS):
        if weight.shape[1] % group == 0:
            turned = rotated(others, group)
            codes = _rounded(rotated(weight, group), rotated(ours, group), INT8)
            found[f"int8 {group}"] = error(turned, codes)
            found[f"stock {group}"] = error(rounded_by_row(turned), codes)
    return found


def _rounded(weight: torch.Tensor, rows: torch.Tensor, grid: Grid) -> torch.Tensor:
    found = quantize_weight(
        weight, grid=grid, scaling="channel", importance=rows.abs().mean(0).double(), rows=rows,
        second_moment=rows.square().mean(0).double(),
    )  # fmt: skip
    return grid.dequantize(found.codes, found.scale.view(-1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--minilm", action="store_true")
    args = parser.parse_args()
    layers = of_minilm() if args.minilm else of_tiny_model(args.comfyui, args.folder)
    each = [errors(*layer) for layer in layers]

    def mean(values: list[float]) -> str:
        return f"{sum(values) / len(values):.2e}"

    print(f"{len(each)} layers; FP8 by channel {mean([e['FP8 by channel'] for e in each])}")
    for kind in ("int8", "stock"):
        plain = [e[f"{kind} {NONE}"] for e in each]
        best = [min((value, name) for name, value in e.items() if name.startswith(kind)) for e in each]
        turned = sum(name != f"{kind} {NONE}" for _, name in best)
        print(f"{kind}: {mean(plain)} as it is, {mean([value for value, _ in best])} at best, {turned} layers rotated")
    worse = sum(e["FP8 by channel"] < e[f"int8 {NONE}"] for e in each)
    print(f"layers whose error is smaller in FP8 by channel than in int8: {worse}")


if __name__ == "__main__":
    main()
