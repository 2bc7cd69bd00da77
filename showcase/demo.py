"""The main job on a real ComfyUI: calibrate, quantize, load, render, compare. ``nox -s demo`` sets it up and runs it.

It drives the bundled example workflow (its API form) with the bundled tiny model: 32 calibration images,
then the workflow once for each format, then eight images of prompts that were not calibrated with, from
every model and the same seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.inspection import inspect_checkpoint
from hswq_core.metrics import compare_images, mse
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer
from tests.support.workflows import TINY, Workflow, node, sampling

WORKFLOW = REPOSITORY / "example_workflows" / "api" / "hswq_sdxl.json"
STEPS, CFG, KEEP_RATIO, BATCH = 25, 2.0, 0.25, 4
CALIBRATION_PROMPTS = (
    "strawberry", "dog", "sunflower", "hamburger", "rabbit", "blue heart", "whale", "tangerine",
)  # fmt: skip
TEST_PROMPTS = (
    "green heart", "pizza", "panda face", "doughnut", "penguin", "green apple", "fox face", "lemon",
)  # fmt: skip
# The naive cast is V1 with nothing kept: every Linear and Conv2d weight cast to FP8 as it is.
VARIANTS: dict[str, dict[str, Any]] = {
    "naive": {"mode": "v1", "keep_ratio": 0.0, "selection": "variance", "filename": "naive"}
} | {
    # Layers are kept by the model card's rule, so that what is shown is that rule and our rounding.
    mode: {
        "mode": mode,
        "keep_ratio": KEEP_RATIO,
        "selection": "variance",
        "rounding": "calibrated",
        "filename": "",
    }
    for mode in ("v1", "v2", "comfy")
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI checkout")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "demo_output")
    parser.add_argument(
        "--started", type=float, default=time.time(), help="when the setup began, in seconds since 1970"
    )
    args = parser.parse_args()
    shutil.rmtree(args.output, ignore_errors=True)
    (args.output / "images").mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="hswq-demo-") as base, ComfyServer(args.comfyui, Path(base)) as server:
        version = server.get("/system_stats")["system"]["comfyui_version"]
        print(f"ComfyUI {version}: calibrating with {len(CALIBRATION_PROMPTS) * BATCH} images", flush=True)
        files = {"fp16": TINY_CHECKPOINT} | quantize_all(server, args.output)
        print(f"rendering {len(TEST_PROMPTS)} images from each of {len(files)} models", flush=True)
        rendered = {name: render(server, name, path, args.output) for name, path in files.items()}
    models = {name: figures(files[name], rendered[name], rendered["fp16"]) for name in files}
    report = {"comfyui": version, "models": models, "seconds": round(time.time() - args.started, 1)}
    (args.output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    contact_sheet({name: images for name, (images, _) in rendered.items()}).save(args.output / "side_by_side.png")
    print(table(models))
    print(f"{report['seconds']:.0f} s in all; the files, the images and report.json are in {args.output}")


def workflow(prompt: str, seed: int, **quantize: Any) -> Workflow:
    """The bundled workflow with the tiny model's name, size and settings filled in."""
    flow: Workflow = copy.deepcopy(json.loads(WORKFLOW.read_text(encoding="utf-8")))
    settings: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": TINY},
        "HSWQLoader": {"ckpt_name": TINY},
        "HSWQCalibrate": {"session": "demo", "rows_per_layer": 1024},
        "HSWQQuantize": {"overwrite": False, **quantize},
        "EmptyLatentImage": {"width": 256, "height": 256, "batch_size": BATCH},
        "KSampler": {"seed": seed, "steps": STEPS, "cfg": CFG},
    }
    positive, negative = (flow[_first(flow, "KSampler")]["inputs"][side][0] for side in ("positive", "negative"))
    flow[positive]["inputs"]["text"], flow[negative]["inputs"]["text"] = prompt, ""
    for entry in flow.values():
        entry["inputs"] |= settings.get(entry["class_type"], {})
    return flow


def quantize_all(server: ComfyServer, output: Path) -> dict[str, Path]:
    """Measure all prompts, and write every variant with the workflow of the last one."""
    *first, last = enumerate(CALIBRATION_PROMPTS)
    for seed, prompt in first:
        flow = workflow(prompt, seed)
        # The calibrating part alone: what the quantize node needs, less the node itself.
        server.run(_upstream(flow, _first(flow, "SaveImage")))
    written: dict[str, Path] = {}
    for name, options in VARIANTS.items():
        flow = workflow(last[1], last[0], **options)
        flow["path"] = node("PreviewAny", source=[_first(flow, "HSWQQuantize"), 0])
        path = Path(server.run(flow)["path"]["text"][0])
        written[name] = Path(shutil.copy(path, output))
    return written


def render(server: ComfyServer, name: str, path: Path, output: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, H, W, 3] in [0, 1] and final latents [N, C, H, W] of the test prompts."""
    loader = node("CheckpointLoaderSimple" if name == "fp16" else "HSWQLoader", ckpt_name=path.name)
    flow: Workflow = {"loader": loader}
    for seed, prompt in enumerate(TEST_PROMPTS):
        key = f"{name}_{seed}"
        sockets = (["loader", 0], ["loader", 1], ["loader", 2])
        flow |= sampling(*sockets, key, prompt=prompt, seed=1000 + seed, steps=STEPS, cfg=CFG)
        flow[f"{key}_latent"] = node("SaveLatent", samples=[f"{key}_sampler", 0], filename_prefix=key)
    outputs = server.run(flow)
    images, latents = [], []
    for seed, prompt in enumerate(TEST_PROMPTS):
        file = server.images(outputs, f"{name}_{seed}_image")[0]
        shutil.copy(file, output / "images" / f"{prompt.replace(' ', '_')}_{name}.png")
        images.append(torch.from_numpy(np.array(Image.open(file).convert("RGB"))).float() / 255)
        saved = outputs[f"{name}_{seed}_latent"]["latents"][0]
        latents.append(load_file(server.output / saved["subfolder"] / saved["filename"])["latent_tensor"])
    return torch.stack(images), torch.cat(latents)


def figures(
    path: Path, rendered: tuple[torch.Tensor, torch.Tensor], reference: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, Any]:
    compared = compare_images(reference[0], rendered[0])
    with CheckpointReader(path) as reader:
        found = inspect_checkpoint(reader)
        unet = sum(i.nbytes for k, i in reader.tensors.items() if k.startswith(found.diffusion_model_prefix))
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "unet_bytes": unet,
        "ssim": compared.ssim,
        "psnr": None if math.isinf(compared.psnr) else compared.psnr,
        "latent_mse": mse(reference[1], rendered[1]),
        "kept_layers": len(found.unquantized),
        "quantized_layers": len(found.quantized),
    }


def table(models: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'model':<8}{'MB':>7}{'size':>7}{'SSIM':>9}{'PSNR':>8}{'latent MSE':>12}{'kept':>6}{'FP8':>6}"]
    full = models["fp16"]["bytes"]
    for name, m in models.items():
        decibels = "same" if m["psnr"] is None else f"{m['psnr']:.2f}"
        lines.append(
            f"{name:<8}{m['bytes'] / 1e6:>7.2f}{m['bytes'] / full:>7.1%}{m['ssim']:>9.4f}{decibels:>8}"
            f"{m['latent_mse']:>12.2e}{m['kept_layers']:>6}{m['quantized_layers']:>6}"
        )
    return "\n".join(lines)


def contact_sheet(images: dict[str, torch.Tensor], zoom: int = 4, margin: int = 60) -> Image.Image:
    """One row a model, one column a prompt, pixels enlarged without smoothing."""
    count, height, width, _ = next(iter(images.values())).shape
    sheet = Image.new("RGB", (margin + count * width * zoom, len(images) * height * zoom), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, batch) in enumerate(images.items()):
        draw.text((8, row * height * zoom + height * zoom // 2 - 6), name, fill="black")
        for column, pixels in enumerate(batch):
            image = Image.fromarray((pixels * 255).round().byte().numpy())
            large = image.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(large, (margin + column * width * zoom, row * height * zoom))
    return sheet


def _first(flow: Workflow, kind: str) -> str:
    return next(key for key, entry in flow.items() if entry["class_type"] == kind)


def _upstream(flow: Workflow, key: str) -> Workflow:
    """The node and everything it depends on."""
    found = {key: flow[key]}
    for value in flow[key]["inputs"].values():
        if isinstance(value, list):
            found |= _upstream(flow, value[0])
    return found


if __name__ == "__main__":
    main()
