"""HSWQCompare: how much a picture suffered."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..hswq_core.metrics import compare_images
from .common import CATEGORY


class HSWQCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQCompare",
            display_name="HSWQ Compare",
            category=CATEGORY,
            description="Compares pictures of two models made from the same seed: side by side, SSIM and PSNR.",
            inputs=[
                io.Image.Input("reference", tooltip="The picture of the full-precision model."),
                io.Image.Input(
                    "candidate", tooltip="The picture of the quantized model, with the same seed and settings."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="comparison", tooltip="Reference, candidate, and their difference eightfold."
                ),
                io.Float.Output(
                    display_name="ssim", tooltip="Structural similarity, mean over the batch; 1 is identical."
                ),
                io.Float.Output(
                    display_name="psnr", tooltip="Peak signal-to-noise ratio in dB; infinite is identical."
                ),
                io.String.Output(display_name="report", tooltip="All figures, as JSON."),
            ],
        )

    @classmethod
    def execute(cls, reference: Any, candidate: Any) -> io.NodeOutput:
        result = compare_images(reference, candidate)
        return io.NodeOutput(result.side_by_side, result.ssim, result.psnr, json.dumps(result.figures(), indent=2))
