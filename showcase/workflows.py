"""The example workflows, laid out from a few words each: ``python -m showcase.workflows --comfyui DIR``.

Sockets, widgets and defaults are the server's own, so that a workflow never misses an input. Also writes the form that
scripts post to a server (``example_workflows/api``) for the quick start, and the subgraph blueprints.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from hswq_core.recipes import DEFAULT_RECIPE, RECIPES
from tests.support import examples
from tests.support.graph import to_prompt
from tests.support.server import REPOSITORY, ComfyServer

from .blueprints import BLUEPRINTS
from .canvas import CALIBRATED, Canvas
from .workflow_notes import (
    COMPARE_MODES,
    DAILY_USE,
    FULL_RECIPE,
    MERGE,
    MORE_IMAGES,
    QUICK_START,
    STOCK_LOADERS,
)

SUBGRAPHS = REPOSITORY / "subgraphs"
SDXL = "sd_xl_base_1.0.safetensors"
PROMPT = "a lighthouse on a cliff above a stormy sea, a small red boat, evening light, photograph"
NEGATIVE = "blurry, watermark, text"


def recipe(name: str) -> dict[str, Any]:
    """A recipe and the fields that it sets."""
    return {"recipe": name, **RECIPES[name]}


BEST = recipe(DEFAULT_RECIPE)


def text_inputs(c: Canvas, clip: tuple[str, int], x: int, y: int, width: int = 360) -> None:
    c.add("positive", "CLIPTextEncode", (x, y, width, 130), "Prompt", clip=clip, text=PROMPT)
    c.add("negative", "CLIPTextEncode", (x, y + 180, width, 110), "Negative prompt", clip=clip, text=NEGATIVE)
    c.add("empty", "EmptyLatentImage", (x, y + 340, width, 110), width=1024, height=1024, batch_size=1)


def sampler(c: Canvas, name: str, model: tuple[str, int], x: int, y: int, title: str, width: int = 330) -> None:
    c.add(
        name, "KSampler", (x, y, width, 270), title, model=model, positive=("positive", 0), negative=("negative", 0),
        latent_image=("empty", 0), seed=20251, steps=25, cfg=7.0, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip


def calibration_run(c: Canvas) -> None:
    c.add("original", "CheckpointLoaderSimple", (0, 40, 330, 100), "① Your checkpoint")
    c.add(
        "run", "HSWQCalibrateRun", (380, 40, 400, 760), model=("original", 0), clip=("original", 1),
        sampler_name="euler", scheduler="normal",
    )  # fmt: skip


def quick_start(c: Canvas) -> None:
    c.note("Read me", QUICK_START, -20, -230, 1210, 160)
    c.note("For a file you publish", MORE_IMAGES, 1240, -230, 1180, 160)
    c.add("original", "CheckpointLoaderSimple", (0, 40, 330, 100), "① Your checkpoint")
    c.add("calibrate", "HSWQCalibrate", (0, 200, 330, 260), model=("original", 0))
    text_inputs(c, ("original", 1), 380, 40)
    sampler(c, "sampler", ("calibrate", 0), 0, 510, "KSampler: original, measured")
    c.add("decode", "VAEDecode", (380, 540, 360, 50), samples=("sampler", 0), vae=("original", 2))
    # HSWQ Compare shows both images.
    c.add(
        "image", "SaveImage", (380, 640, 360, 40), "Original", collapsed=True, images=("decode", 0),
        filename_prefix="hswq_original",
    )  # fmt: skip
    c.add(
        "quantize", "HSWQQuantize", (800, 40, 390, 800), "Write the copy", source=CALIBRATED,
        stats=("calibrate", 1), **BEST, keep_ratio=0.25, overwrite=True, after=("sampler", 0),
        model=("calibrate", 0), clip=("original", 1), vae=("original", 2),
    )  # fmt: skip
    c.add("hswq", "HSWQLoader", (1240, 40, 370, 240), "HSWQ Loader: the file just written", path=("quantize", 0))
    sampler(c, "again", ("hswq", 0), 1240, 334, "KSampler: the copy, same seed", 370)
    c.add("decode_again", "VAEDecode", (1240, 658, 370, 50), samples=("again", 0), vae=("hswq", 2))
    c.add(
        "fp8", "SaveImage", (1240, 762, 370, 40), "Copy", collapsed=True, images=("decode_again", 0),
        filename_prefix="hswq_copy",
    )  # fmt: skip
    c.add("compare", "HSWQCompare", (1660, 40, 740, 490), reference=("decode", 0), candidate=("decode_again", 0))
    c.add(
        "sheet", "SaveImage", (1660, 584, 740, 300), "Original, copy, difference x 8", images=("compare", 0),
        filename_prefix="hswq_compare",
    )  # fmt: skip
    c.as_app(
        [("original", "ckpt_name"), ("positive", "text"), ("negative", "text"), ("quantize", "recipe"),
         ("quantize", "keep_ratio"), ("quantize", "filename")],
        ["image", "fp8", "quantize", "compare", "sheet"],
    )  # fmt: skip
    c.group("1  Calibrate while sampling", -20, -30, 780, 960)
    c.group("2  Write the copy", 780, -30, 430, 960)
    c.group("3  Load and render", 1220, -30, 410, 960)
    c.group("4  Compare", 1640, -30, 780, 960)


def full_recipe(c: Canvas) -> None:
    c.note("Read me", FULL_RECIPE, -20, -260, 2600, 190)
    calibration_run(c)
    c.add(
        "measure", "HSWQMeasureSensitivity", (830, 40, 280, 320), model=("original", 0), stats=("run", 0),
        mode=BEST["mode"], rounding=BEST["rounding"],
    )  # fmt: skip
    c.add("report", "HSWQReport", (830, 420, 280, 130), stats=("measure", 0), keep_ratio=0.1)
    c.add("chart", "PreviewImage", (830, 610, 280, 270), "Layers, and what is kept", images=("report", 0))
    c.add(
        "quantize", "HSWQQuantize", (1160, 40, 350, 800), "Write the copy", source=CALIBRATED,
        stats=("measure", 0), **BEST, keep_ratio=0.1,
        model=("original", 0), clip=("original", 1), vae=("original", 2),
    )  # fmt: skip
    c.add("copy", "HSWQLoader", (1560, 40, 300, 260), "HSWQ Loader: the file just written", path=("quantize", 0))
    c.add(
        "prove", "HSWQProve", (1900, 40, 320, 720), reference=("original", 0), candidate=("copy", 0),
        clip=("original", 1), vae=("original", 2), sampler_name="euler", scheduler="normal", seeds=8,
    )  # fmt: skip
    c.add("pairs", "PreviewImage", (2260, 40, 300, 300), "Original, copy, difference x 8", images=("prove", 0))
    c.add("publish", "HSWQPublish", (2260, 394, 300, 480), path=("quantize", 0), proof=("prove", 2))
    c.group("1  Calibrate with 32 images", -20, -30, 820, 940)
    c.group("2  Measure", 810, -30, 320, 940)
    c.group("3  Write the copy", 1140, -30, 390, 940)
    c.group("4  Prove and publish", 1540, -30, 1040, 940)


def daily_use(c: Canvas) -> None:
    c.note("Read me", DAILY_USE, 0, -230, 1660, 190)
    c.add("hswq", "HSWQLoader", (0, 40, 340, 240), "① Your copy", properties={"hswq_kind": BEST["mode"]})
    c.add(
        "lora", "LoraLoader", (0, 334, 340, 130), "② A LoRA (Ctrl+B switches it on)", bypass=True, model=("hswq", 0),
        clip=("hswq", 1), strength_model=1.0, strength_clip=1.0,
    )  # fmt: skip
    text_inputs(c, ("lora", 1), 390, 40)
    sampler(c, "sampler", ("lora", 0), 800, 40, "")
    c.add("decode", "VAEDecode", (800, 370, 330, 50), samples=("sampler", 0), vae=("hswq", 2))
    c.add("image", "SaveImage", (1180, 40, 480, 500), images=("decode", 0), filename_prefix="hswq")


def compare_modes(c: Canvas) -> None:
    c.note("Read me", COMPARE_MODES, 0, -250, 2600, 180)
    c.add("fp16", "CheckpointLoaderSimple", (0, 40, 340, 100), "① The original")
    text_inputs(c, ("fp16", 1), 0, 190, 340)
    for column, (name, title) in enumerate((("fp16", "FP16"), ("v1", "V1"), ("v2", "V2"))):
        x = 390 + column * 440
        if name != "fp16":
            heading = f"{'②③'[column - 1]} Your {title} file"
            c.add(name, "HSWQLoader", (x, 40, 390, 240), heading, properties={"hswq_kind": name})
        sampler(c, f"{name}_sampler", (name, 0), x, 334, f"KSampler: {title}", 390)
        c.add(f"{name}_decode", "VAEDecode", (x, 658, 390, 50), samples=(f"{name}_sampler", 0), vae=("fp16", 2))
    for column, name in enumerate(("v1", "v2")):
        c.add(
            f"{name}_compare", "HSWQCompare", (1710 + 450 * column, 40, 420, 480), f"FP16 | {name.upper()}",
            reference=("fp16_decode", 0), candidate=(f"{name}_decode", 0),
        )  # fmt: skip
    c.group("FP16", 370, -30, 430, 920)
    c.group("V1", 810, -30, 430, 920)
    c.group("V2", 1250, -30, 430, 920)
    c.group("Compare", 1690, -30, 910, 920)


def stock_loaders(c: Canvas) -> None:
    c.note("Read me", STOCK_LOADERS, -20, -260, 1690, 190)
    calibration_run(c)
    choices = {"comfy": {"mode": "comfy", "rounding": "calibrated"}, "v1": recipe("for everyone")}
    for column, (mode, chosen) in enumerate(choices.items()):
        x = 840 + column * 430
        title = "For recent ComfyUI: comfy" if mode == "comfy" else "For every FP8 loader: V1"
        c.add(
            f"quantize_{mode}", "HSWQQuantize", (x, 40, 390, 750), title, source=CALIBRATED,
            stats=("run", 0), **chosen, keep_ratio=0.1,
            model=("original", 0), clip=("original", 1), vae=("original", 2),
        )  # fmt: skip
    c.group("1  Calibrate", -20, -30, 820, 850)
    c.group("2  Write", 820, -30, 850, 850)


def merge(c: Canvas) -> None:
    c.note("Read me", MERGE, -20, -260, 1640, 190)
    c.add("first", "CheckpointLoaderSimple", (0, 40, 330, 100), "① A checkpoint")
    c.add("second", "CheckpointLoaderSimple", (0, 200, 330, 100), "② Another one")
    c.add(
        "merge", "ModelMergeSimple", (0, 360, 330, 90), "Merge the diffusion models", model1=("first", 0),
        model2=("second", 0), ratio=0.5,
    )  # fmt: skip
    c.add(
        "lora", "LoraLoader", (0, 510, 330, 130), "③ A LoRA (Ctrl+B switches it on)", bypass=True, model=("merge", 0),
        clip=("first", 1), strength_model=0.8, strength_clip=0.8,
    )  # fmt: skip
    c.add(
        "run", "HSWQCalibrateRun", (380, 40, 400, 760), model=("lora", 0), clip=("lora", 1),
        sampler_name="euler", scheduler="normal",
    )  # fmt: skip
    c.add(
        "quantize", "HSWQQuantize", (830, 40, 390, 830), "Write the copy", source=CALIBRATED, stats=("run", 0), **BEST,
        keep_ratio=0.25, model=("lora", 0), clip=("lora", 1), vae=("first", 2),
    )  # fmt: skip
    c.add("report", "HSWQReport", (1270, 40, 330, 130), stats=("run", 0), keep_ratio=0.25, after=("quantize", 0))
    c.add("chart", "PreviewImage", (1270, 230, 330, 400), "Layers, and what is kept", images=("report", 0))
    c.group("1  Merge, and calibrate the result", -20, -30, 820, 940)
    c.group("2  Write the copy", 810, -30, 430, 940)
    c.group("3  Look", 1250, -30, 370, 940)


WORKFLOWS = {
    examples.QUICK_START: quick_start,
    examples.FULL_RECIPE: full_recipe,
    examples.DAILY_USE: daily_use,
    examples.COMPARE: compare_modes,
    examples.STOCK_LOADERS: stock_loaders,
    examples.MERGE: merge,
}


def build(object_info: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Every example workflow by its file, as the page saves it."""
    done = {}
    for path, draw in WORKFLOWS.items():
        canvas = Canvas(object_info)
        draw(canvas)
        done[path] = canvas.workflow(path.stem)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI checkout")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(args.comfyui, Path(base)) as server:
        info = server.get("/object_info")
    for path, workflow in build(info).items():
        text = json.dumps(workflow, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        if path == examples.QUICK_START:
            prompt = to_prompt(workflow, info)
            for entry in prompt.values():
                entry["inputs"] |= {"ckpt_name": SDXL} if "ckpt_name" in entry["inputs"] else {}
            text = json.dumps(prompt, indent=1, ensure_ascii=False)
            examples.QUICK_START_API.write_text(text + "\n", encoding="utf-8")
    SUBGRAPHS.mkdir(exist_ok=True)
    for name, make in BLUEPRINTS.items():
        text = json.dumps(make(info), indent=1, ensure_ascii=False)
        (SUBGRAPHS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
