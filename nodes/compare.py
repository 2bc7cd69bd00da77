"""HSWQCompare: image similarity, SSIM and PSNR."""

from __future__ import annotations

import json
import math
from typing import Any

from comfy_api.latest import io, ui

from ..hswq_core.metrics import ImageComparison, compare_images
from ..hswq_core.proof.sentence import Verdict, in_digits, verdict_of_images
from .common import CATEGORY, found_by
from .inputs import checked
from .served import as_text_file


class HSWQCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQCompare",
            display_name="HSWQ Compare",
            category=CATEGORY,
            **found_by("compare images", "ssim", "psnr"),
            description="Compares images that two models made from the same seed: side by side, SSIM and PSNR.",
            inputs=[
                io.Image.Input("reference", tooltip="The image of the full-precision model."),
                io.Image.Input(
                    "candidate", tooltip="The image of the quantized model, with the same seed and settings."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="comparison", tooltip="Reference, candidate, and their difference, amplified 8 times."
                ),
                io.Float.Output(
                    display_name="ssim", tooltip="Structural similarity, the mean over the batch. 1 means identical."
                ),
                io.Float.Output(
                    display_name="psnr", tooltip="Peak signal-to-noise ratio in dB. Infinite means identical."
                ),
                io.String.Output(display_name="report", tooltip="All figures, as JSON."),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, reference: Any, candidate: Any) -> io.NodeOutput:
        result = compare_images(reference, candidate)
        verdict = _verdict(result)
        report = json.dumps(result.figures() | {"verdict": verdict.text}, indent=2)
        shown = {
            "hswq_compare": _pairs(reference, candidate, result), "hswq_verdict": [verdict.as_dict()],
            "hswq_app": [as_text_file("Verdict", verdict.text)],
        }  # fmt: skip
        return io.NodeOutput(result.side_by_side, result.ssim, result.psnr, report, ui=shown)


def _pairs(reference: Any, candidate: Any, result: ImageComparison) -> list[dict[str, Any]]:
    """For the page's slider: the images as temporary files, two by two."""
    saved = (
        ui.ImageSaveHelper.save_images(images, f"hswq_{name}", io.FolderType.temp, None, compress_level=1)
        for name, images in (("reference", reference), ("candidate", candidate))
    )
    decibels = "infinite" if math.isinf(result.psnr) else f"{result.psnr:.1f} dB"
    return [
        {"reference": dict(a), "candidate": dict(b), "ssim": in_digits(ssim), "psnr": decibels}
        for a, b, ssim in zip(*saved, result.each, strict=True)
    ]


def _verdict(result: ImageComparison) -> Verdict:
    return verdict_of_images(result.each, same_model=math.isinf(result.psnr))
