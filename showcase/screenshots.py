"""Images of the running product: the example workflows' and the README's. ``nox -s screenshots`` runs it.

The tiny model stands in for SDXL, at its own size and with few steps; everything else is as a user sees it.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect
from safetensors.torch import load_file, save_file

from hswq_core.recipes import DEFAULT_RECIPE
from tests.support import examples
from tests.support.page import ComfyPage, chromium
from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer

from .thumbnails import save_thumbnail

IMAGES = REPOSITORY / "docs" / "images"
SECOND = "hswq_tiny_2.safetensors"
STEPS, CFG = 25, 2.0
PROMPTS = {examples.QUICK_START: "fox face", examples.DAILY_USE: "sunflower", examples.COMPARE: "strawberry"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI checkout")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(args.comfyui, Path(base)) as server, chromium() as browser:
        # Other weights, so that it can be told which of the two was calibrated.
        original = load_file(TINY_CHECKPOINT)
        other = {key: value * 1.01 if value.dim() > 1 else value for key, value in original.items()}
        save_file(other, server.checkpoints / SECOND)
        for path in examples.EXAMPLES:
            with ComfyPage(server, browser, 2400, 1500) as page:
                photograph(page, path)
                if page.errors:
                    raise RuntimeError(page.errors)
                print(path.stem, flush=True)


def photograph(page: ComfyPage, path: Path) -> None:
    """Run an example as far as the tiny model goes, and keep what the page shows."""
    page.drop(path)
    small_and_fast(page, PROMPTS.get(path, ""))
    if path == examples.QUICK_START:
        # What the comparing workflow opens.
        for mode in ("v1", "v2"):
            page.set("HSWQQuantize", {"mode": mode, "selection": "variance", "filename": f"tiny_{mode}"})
            _run(page)
        page.set("HSWQQuantize", {"recipe": DEFAULT_RECIPE, "filename": "tiny_best"})
    if path == examples.DAILY_USE:
        page.set("HSWQLoader", {"ckpt_name": "tiny_best.safetensors"})
    if path == examples.COMPARE:
        page.set_in_order("HSWQLoader", "ckpt_name", ["tiny_v1.safetensors", "tiny_v2.safetensors"])
    if path == examples.MERGE:
        # A merge has a session named for its files: of one file alone it would be that file's.
        page.set_in_order("CheckpointLoaderSimple", "ckpt_name", [TINY_CHECKPOINT.name, SECOND])
    _run(page)
    whole = page.fit()
    if path == examples.QUICK_START:
        save(page, IMAGES / "page_quick_start.jpg", 1800, whole)
        close_up(page, "HSWQQuantize", "page_keep_ratio.jpg")
        close_up(page, "HSWQCompare", "page_compare.jpg")
        close_up(page, "HSWQCalibrate", "page_calibrate.jpg")
    if path == examples.FULL_RECIPE:
        save(page, IMAGES / "page_full_recipe.jpg", 1800, whole)
    save_thumbnail(page, path)


def small_and_fast(page: ComfyPage, prompt: str) -> None:
    """The tiny model's size and speed in place of SDXL's."""
    size = {"width": 256, "height": 256}
    page.set("CheckpointLoaderSimple", {"ckpt_name": TINY_CHECKPOINT.name})  # else the first of the list
    page.set("EmptyLatentImage", size)
    page.set("KSampler", {"steps": STEPS, "cfg": CFG})
    page.set("HSWQCalibrateRun", {**size, "samples": 8, "steps": 10, "cfg": CFG, "rows_per_layer": 256})
    page.set("HSWQMeasureSensitivity", {"probes": 2})
    page.set("HSWQProve", {**size, "seeds": 4, "steps": STEPS, "cfg": CFG})
    # The tiny model knows names of things alone, so that it is asked to avoid nothing.
    page.set("CLIPTextEncode", {"text": prompt}, title="Prompt")
    page.set("CLIPTextEncode", {"text": ""}, title="Negative prompt")


def _run(page: ComfyPage) -> None:
    status = page.run()
    if status != "success":
        raise RuntimeError(f"the workflow ended with {status}")


def close_up(page: ComfyPage, kind: str, name: str) -> None:
    """One node, large."""
    box = page.frame_node(kind)
    save(page, IMAGES / name, 700, box)


def save(page: ComfyPage, path: Path, width: int, clip: FloatRect) -> None:
    image = Image.open(io.BytesIO(page.page.screenshot(clip=clip))).convert("RGB")
    height = round(image.height * width / image.width)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((width, height), Image.Resampling.LANCZOS).save(path, quality=84)


if __name__ == "__main__":
    main()
