"""Pairs of images from rounding that hardly matters to rounding that ruins: where the verdict's levels lie.

    python -m benchmarks.levels --comfyui DIR [--images 32] [--output DIR]

On the bundled tiny model, with prompts that were not calibrated with. For each file: the error of the UNet's output on
the original's own trajectories, by image, and the SSIM of each pair of images. Writes levels.json, and levels.png:
pairs by falling SSIM, the original's image above the quantized model's, to look at.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from hswq_core.formats import FORMATS
from hswq_core.metrics import compare_images
from hswq_core.proof.levels import LEVELS, level_of_error, level_of_ssim

from . import fidelity, inprocess_comfy
from .peers import ORIGINAL, UNET, save
from .peers_small import plain

_COLUMNS, _SIDE = 16, 96


def rounded_plainly(bits: int, target: Path, layers: list[str]) -> Path:
    """Every layer in so many bits, in groups of 64, each weight to the nearest value; stored as FP16."""
    form = next(form for form in FORMATS["mixed"].forms if form.bits == bits)
    tensors, size = load_file(ORIGINAL), ORIGINAL.stat().st_size
    for key in (f"{UNET}{layer}.weight" for layer in layers):
        found, stored = plain(tensors[key], form)
        size += stored - tensors[key].nbytes
        tensors[key] = found.half()
    save(target.parent, target.stem, tensors, size)
    return target


def files(target: Path) -> Iterator[tuple[str, Path]]:
    """Each file under its name, written when it is asked for; all take each other's place."""
    write = partial(fidelity.write, ORIGINAL, target)
    _, statistics = fidelity.calibrate(ORIGINAL, target.with_name("statistics.safetensors"))
    for mode in ("int8", "v2", "v1"):
        yield f"{mode}, nearest, none kept", write(statistics, mode=mode, keep_ratio=0.0)
    yield "v2, the model card's, 0.25", write(statistics, mode="v2", keep_ratio=0.25)
    for bits in (6, 5, 4, 3, 2):
        yield f"plain {bits} bits", rounded_plainly(bits, target, sorted(statistics.layers))


def sheet(pairs: list[tuple[float, torch.Tensor, torch.Tensor]]) -> Image.Image:
    """Pairs by falling SSIM, as many of each hundredth as fit into a row. Args: pairs: images [H, W, 3]."""
    by_hundredth: dict[int, list[tuple[float, torch.Tensor, torch.Tensor]]] = {}
    for pair in sorted(pairs, key=lambda pair: -pair[0]):
        by_hundredth.setdefault(int(pair[0] * (100 if pair[0] >= 0.9 else 20)), []).append(pair)
    rows = [row[:: max(1, len(row) // _COLUMNS)][:_COLUMNS] for row in by_hundredth.values()]
    height = 2 * _SIDE + 16
    found = Image.new("RGB", (_COLUMNS * (_SIDE + 4), len(rows) * height), "white")
    draw = ImageDraw.Draw(found)
    for down, row in enumerate(rows):
        for across, (ssim, *images) in enumerate(row):
            x, y = across * (_SIDE + 4), down * height
            draw.text((x + 2, y + 2), f"{ssim:.4f}", "black")
            for number, image in enumerate(images):
                picture = Image.fromarray((image.clamp(0, 1) * 255).byte().numpy())
                found.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (x, y + 14 + number * _SIDE))
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    heads = [level.name for level in LEVELS]
    lines = [f"| file | MB | model error, median | SSIM: median | least | {' | '.join(heads)} |"]
    lines.append("|---|" + "---:|" * (4 + len(heads)))
    for name, r in results.items():
        found = [level_of_ssim(ssim).name for ssim in r["ssim_each"]]
        counts = " | ".join(str(found.count(head)) for head in heads)
        lines.append(
            f"| {name} | {r['bytes'] / 1e6:.2f} | {median(r['unet_error_each']):.1e} | {median(r['ssim_each']):.4f} | "
            f"{min(r['ssim_each']):.4f} | {counts} |"
        )
    return "\n".join(lines)


def agreement(results: dict[str, dict[str, Any]]) -> str:
    """How often the error of the model's output says the level of the image."""
    each = [pair for r in results.values() for pair in zip(r["ssim_each"], r["unet_error_each"], strict=True)]
    gaps = [LEVELS.index(level_of_error(error)) - LEVELS.index(level_of_ssim(ssim)) for ssim, error in each]
    return (
        f"of {len(gaps)} pairs the model's error says the same level in {gaps.count(0)}, one beside it in "
        f"{sum(abs(gap) == 1 for gap in gaps)}, a better one in {sum(gap < 0 for gap in gaps)}"
    )


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--images", type=int, default=fidelity.BATCH, help=f"{fidelity.BATCH} at most")
    parser.add_argument("--output", type=Path, default=inprocess_comfy.ROOT / "levels_output")
    args = parser.parse_args()
    started = time.time()
    inprocess_comfy.start(args.comfyui)
    args.output.mkdir(parents=True, exist_ok=True)
    judge, results = fidelity.Judge(ORIGINAL, args.images), dict[str, dict[str, Any]]()
    pairs: list[tuple[float, torch.Tensor, torch.Tensor]] = []
    for name, file in files(args.output / "a.safetensors"):
        opened, size = inprocess_comfy.LoadedModel(file), file.stat().st_size
        if (beside := file.with_suffix(".json")).is_file():  # the size that plainly rounded weights would have
            size = json.loads(beside.read_text(encoding="utf-8"))["bytes"]
            beside.unlink()
        images = opened.images(judge.latents(opened))
        each = compare_images(judge.images, images).each
        pairs += zip(each, judge.images, images, strict=True)
        results[name] = {"bytes": size, "unet_error_each": judge.unet_errors(opened), "ssim_each": list(each)}
        said = {"machine": platform.machine(), "torch": torch.__version__, "images": args.images, "models": results}
        (args.output / "levels.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        sheet(pairs).save(args.output / "levels.png")
        print(f"{name}, {time.time() - started:.0f} s", flush=True)
    print(f"{args.images} images, {time.time() - started:.0f} s")
    print(table(results))
    print(agreement(results))


if __name__ == "__main__":
    main()
