"""HSWQLoader and HSWQDiffusionModelLoader: any FP8 file, with its scales and its kept layers."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..loader.load import load_checkpoint, load_diffusion_model
from .common import CATEGORY, model_modification_time, model_path

_PATH_TOOLTIP = "Connect the path of HSWQ Quantize to load the file just written, instead of the one chosen above."


class HSWQLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQLoader",
            display_name="HSWQ Loader",
            category=CATEGORY,
            description=(
                "Loads a checkpoint quantized by HSWQ (V1, V2 or comfy) or any other. FP8 weights stay FP8 in memory, "
                "kept layers keep their precision."
            ),
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=folder_paths.get_filename_list("checkpoints"),
                    tooltip="The checkpoint to load.",
                ),
                io.String.Input("path", optional=True, force_input=True, tooltip=_PATH_TOOLTIP),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                io.Vae.Output(display_name="vae"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str, path: str | None = None) -> int:
        return model_modification_time("checkpoints", ckpt_name)

    @classmethod
    def execute(cls, ckpt_name: str, path: str | None = None) -> io.NodeOutput:
        file = Path(path) if path else model_path("checkpoints", ckpt_name)
        return io.NodeOutput(*load_checkpoint(file, folder_paths.get_folder_paths("embeddings")))


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
                io.String.Input("path", optional=True, force_input=True, tooltip=_PATH_TOOLTIP),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def fingerprint_inputs(cls, unet_name: str, path: str | None = None) -> int:
        return model_modification_time("diffusion_models", unet_name)

    @classmethod
    def execute(cls, unet_name: str, path: str | None = None) -> io.NodeOutput:
        file = Path(path) if path else model_path("diffusion_models", unet_name)
        return io.NodeOutput(load_diffusion_model(file))
