"""The main job on a real ComfyUI: calibrate, quantize, load, render, prove. ``nox -s demo`` sets it up and runs it.

It drives the bundled example workflow (its API form) with the bundled tiny model: 32 calibration images, then the
workflow once for each file, then HSWQ Prove for each: four images of prompts that were not calibrated with, from the
same noise as the original's.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from farm.prove import ProofRequest, prove
from hswq_core import inspect
from hswq_core.recipes import CUSTOM
from tests.support.examples import QUICK_START_API
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer
from tests.support.workflows import TINY, Workflow, node

from .sheet import contact_sheet

STEPS, CFG, BATCH, SIZE = 25, 2.0, 4, 256
CALIBRATION_PROMPTS = (
    "strawberry", "dog", "sunflower", "hamburger", "rabbit", "blue heart", "whale", "tangerine",
)  # fmt: skip
TEST_PROMPTS = ("green heart", "pizza", "panda face", "doughnut")
BEST: dict[str, Any] = {"selection": "measured", "rounding": "calibrated", "budget": "57%"}
# Files of one size, but for the naive cast, which can be no larger, and comfy, whose convolutions stay FP16.
VARIANTS: dict[str, dict[str, Any]] = {
    # Every Linear and Conv2d weight cast to FP8 as it is.
    "naive": {"mode": "v1", "keep_ratio": 0.0, "selection": "variance", "rounding": "nearest"},
    # The model card's method: scaled to the full range, the layers of largest output variance kept.
    "card": {"mode": "v2", "budget": "57%", "selection": "variance", "rounding": "nearest"},
    "v1": {"mode": "v1", **BEST},
    "v2": {"mode": "v2", **BEST},
    "int8": {"mode": "int8", **BEST},
    "comfy": {"mode": "comfy", "keep_ratio": 0.0, "selection": "measured", "rounding": "calibrated"},
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
        print(f"proving {len(files)} models with {len(TEST_PROMPTS)} images each", flush=True)
        proofs = {name: prove_one(server, name, path, args.output) for name, path in files.items()}
    models = {name: figures(files[name], proof) for name, proof in proofs.items()}
    report = {"comfyui": version, "models": models, "seconds": round(time.time() - args.started, 1)}
    (args.output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    contact_sheet(rows_of(models, args.output)).save(args.output / "side_by_side.png")
    print(table(models))
    print(f"{report['seconds']:.0f} s in all; the files, proofs, images and report.json are in {args.output}")


def workflow(prompt: str, seed: int, **quantize: Any) -> Workflow:
    """The bundled workflow with the tiny model's name, size and settings filled in."""
    flow: Workflow = copy.deepcopy(json.loads(QUICK_START_API.read_text(encoding="utf-8")))
    settings: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": TINY},
        "HSWQLoader": {"ckpt_name": TINY},
        "HSWQCalibrate": {"session": "demo", "rows_per_layer": 1024},
        "HSWQQuantize": {"overwrite": False, "recipe": CUSTOM, **quantize},
        "EmptyLatentImage": {"width": SIZE, "height": SIZE, "batch_size": BATCH},
        "KSampler": {"seed": seed, "steps": STEPS, "cfg": CFG},
    }
    positive, negative = (flow[_first(flow, "KSampler")]["inputs"][side][0] for side in ("positive", "negative"))
    flow[positive]["inputs"]["text"], flow[negative]["inputs"]["text"] = prompt, ""
    for entry in flow.values():
        entry["inputs"] |= settings.get(entry["class_type"], {})
    return flow


def calibrate(server: ComfyServer) -> None:
    """Measure all prompts but the last, whose workflow also quantizes."""
    for seed, prompt in enumerate(CALIBRATION_PROMPTS[:-1]):
        flow = workflow(prompt, seed)
        # The calibrating part alone: what the quantize node needs, less the node itself.
        server.run(_upstream(flow, _first(flow, "SaveImage")))


def quantized(server: ComfyServer, name: str, **options: Any) -> Path:
    """A file of this name, by the workflow of the last prompt."""
    flow = workflow(CALIBRATION_PROMPTS[-1], len(CALIBRATION_PROMPTS) - 1, filename=name, **options)
    flow["path"] = node("PreviewAny", source=[_first(flow, "HSWQQuantize"), 0])
    return Path(server.run(flow)["path"]["text"][0])


def quantize_all(server: ComfyServer, output: Path) -> dict[str, Path]:
    """Every variant of the calibrated model."""
    calibrate(server)
    written = {name: quantized(server, name, **options) for name, options in VARIANTS.items()}
    return {name: Path(shutil.copy(path, output)) for name, path in written.items()}


def prove_one(server: ComfyServer, name: str, path: Path, output: Path) -> dict[str, Any]:
    """The proof of a file against the tiny model; its page, and the images of both, go to the output."""
    request = ProofRequest(
        reference=TINY, candidate=path.name, prompts="\n".join(TEST_PROMPTS), seeds=len(TEST_PROMPTS), steps=STEPS,
        cfg=CFG, width=SIZE, height=SIZE, save_pictures=True,
    )  # fmt: skip
    proof, page = prove(server.client, request)
    (output / "proofs").mkdir(exist_ok=True)
    shutil.copy(page, output / "proofs" / f"{name}.html")
    shutil.copy(page.with_name("proof.json"), output / "proofs" / f"{name}.json")
    for prompt, image in zip(TEST_PROMPTS, sorted((page.parent / "candidate").iterdir()), strict=True):
        shutil.copy(image, output / "images" / f"{prompt.replace(' ', '_')}_{name}.png")
    return proof


def figures(path: Path, proof: dict[str, Any]) -> dict[str, Any]:
    """The file's size and layers, and means of the proof over the pairs."""
    found, means = inspect(path), {name: figure["mean"] for name, figure in proof["figures"].items()}
    decibels = [pair["psnr"] for pair in proof["pairs"] if pair["psnr"] is not None]
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "unet_bytes": found.diffusion_model_bytes,
        "ssim": means["ssim"],
        "psnr": sum(decibels) / len(decibels) if decibels else None,
        "latent_mse": means["latent_mse"],
        "model_error": proof["figures"]["model_error"]["median"],
        "verdict": proof["verdict"],
        "kept_layers": len(found.unquantized),
        "quantized_layers": len(found.quantized),
    }


def table(models: dict[str, dict[str, Any]]) -> str:
    titles = (("MB", 7), ("size", 7), ("SSIM", 9), ("PSNR", 8), ("latent MSE", 12), ("model error", 13), ("kept", 6))
    lines = [f"{'model':<8}" + "".join(f"{text:>{width}}" for text, width in (*titles, ("8 bit", 7)))]
    full = models["fp16"]["bytes"]
    for name, m in models.items():
        decibels = "same" if m["psnr"] is None else f"{m['psnr']:.2f}"
        lines.append(
            f"{name:<8}{m['bytes'] / 1e6:>7.2f}{m['bytes'] / full:>7.1%}{m['ssim']:>9.4f}{decibels:>8}"
            f"{m['latent_mse']:>12.2e}{m['model_error']:>13.2e}{m['kept_layers']:>6}{m['quantized_layers']:>7}"
        )
    return "\n".join(lines)


def rows_of(models: dict[str, dict[str, Any]], output: Path) -> dict[str, list[Image.Image]]:
    """The images of each model, under what its row is to say."""
    full = models["fp16"]["bytes"]
    return {
        f"{name}\n{m['bytes'] / full:.1%}\nSSIM {m['ssim']:.4f}": [
            Image.open(output / "images" / f"{prompt.replace(' ', '_')}_{name}.png").convert("RGB")
            for prompt in TEST_PROMPTS
        ]
        for name, m in models.items()
    }


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
