"""HSWQLoader and HSWQDiffusionModelLoader: any FP8 file, with its scales and its kept layers."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io

from ..hswq_core.files.inspection import Inspection
from ..loader.load import load_checkpoint, load_diffusion_model
from .common import CATEGORY
from .inputs import checked
from .sources import known_path, model_modification_time, model_path
from .web_api import file_summary


def _more_inputs() -> list[Any]:
    return [
        io.String.Input(
            "path",
            optional=True,
            force_input=True,
            tooltip=(
                "Connect the path output of HSWQ Quantize to load the file it has just written instead of the "
                "file above."
            ),
        ),
        io.Boolean.Input(
            "fp8_matmul",
            default=False,
            optional=True,
            tooltip=(
                "Multiply Linear layers in FP8 on cards that support it (RTX 40 and newer). This also rounds "
                "the layers' "
                "inputs, so images are less exact. On other cards it changes nothing."
            ),
        ),
    ]


def _ui(found: Inspection) -> dict[str, Any]:
    return {"text": [found.summary], "hswq_loaded": [file_summary(found)]}


class HSWQLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQLoader",
            display_name="HSWQ Loader",
            category=CATEGORY,
            description=(
                "Loads a checkpoint, quantized by HSWQ (V1, V2 or comfy) or not. FP8 weights stay FP8 in memory, and "
                "kept layers keep their precision."
            ),
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=folder_paths.get_filename_list("checkpoints"),
                    tooltip="The checkpoint to load.",
                ),
                *_more_inputs(),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder."),
                io.Vae.Output(display_name="vae", tooltip="The VAE."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str, path: str | None = None, fp8_matmul: bool = False) -> int:
        return model_modification_time("checkpoints", ckpt_name)

    @classmethod
    @checked
    def execute(cls, ckpt_name: str, path: str | None = None, fp8_matmul: bool = False) -> io.NodeOutput:
        file = known_path(path) if path else model_path("checkpoints", ckpt_name)
        embeddings = folder_paths.get_folder_paths("embeddings")
        model, clip, vae, found = load_checkpoint(file, embeddings, fp8_matmul=fp8_matmul)
        return io.NodeOutput(model, clip, vae, ui=_ui(found))


class HSWQDiffusionModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQDiffusionModelLoader",
            display_name="HSWQ Diffusion Model Loader",
            category=CATEGORY,
            description="Loads a diffusion model without text encoder and VAE, quantized by HSWQ or not.",
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="The diffusion model to load.",
                ),
                *_more_inputs(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model.")],
        )

    @classmethod
    def fingerprint_inputs(cls, unet_name: str, path: str | None = None, fp8_matmul: bool = False) -> int:
        return model_modification_time("diffusion_models", unet_name)

    @classmethod
    @checked
    def execute(cls, unet_name: str, path: str | None = None, fp8_matmul: bool = False) -> io.NodeOutput:
        file = known_path(path) if path else model_path("diffusion_models", unet_name)
        model, found = load_diffusion_model(file, fp8_matmul=fp8_matmul)
        return io.NodeOutput(model, ui=_ui(found))
