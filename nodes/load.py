"""HSWQLoader and HSWQDiffusionModelLoader: any FP8 file, with its scales and its kept layers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..hswq_core.files.reading import READINGS
from ..loader.load import Loaded, load_checkpoint, load_diffusion_model
from .common import CATEGORY, found_by
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
        # Older workflows have it; the page moves it into compute and hides it.
        io.Boolean.Input("fp8_matmul", default=False, optional=True, tooltip="Of older workflows: compute fast."),
        io.Combo.Input(
            "compute",
            options=["exact", "fast"],
            default="exact",
            optional=True,
            tooltip=(
                "fast: multiply Linear layers in 8 bits: those in INT8 on most devices, those in FP8 on cards that "
                "support it (RTX 40 and newer). This also rounds the layers' inputs, so images are less exact. Other "
                "layers, and those with a LoRA, stay exact."
            ),
        ),
        io.Combo.Input(
            "reading",
            options=list(READINGS),
            default="auto",
            optional=True,
            tooltip=(
                "memory: the file is read into main memory, and may be changed or removed afterwards. mapped: it stays "
                "in the file until it is used, which takes less memory; a file that is cut short meanwhile ends "
                "ComfyUI. auto: memory, unless too little of it is free and the file is on a disk of this machine."
            ),
        ),
    ]


def _how(fp8_matmul: bool = False, compute: str = "exact", reading: str = "auto") -> dict[str, Any]:
    """What the other inputs ask of the functions that load."""
    return {"fast": fp8_matmul or compute == "fast", "reading": reading}


def _ui(loaded: Loaded) -> dict[str, Any]:
    told = [loaded.found.summary, *([] if loaded.fast is None else [str(loaded.fast)])]
    computing = {} if loaded.fast is None else {"computing": asdict(loaded.fast)}
    return {"text": told, "hswq_loaded": [file_summary(loaded.found) | computing]}


class HSWQLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQLoader",
            display_name="HSWQ Loader",
            category=CATEGORY,
            **found_by("fp8", "int8", "8 bit", "4 bit", "vram", "load quantized"),
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
    def fingerprint_inputs(cls, ckpt_name: str, **_: Any) -> int:
        return model_modification_time("checkpoints", ckpt_name)

    @classmethod
    @checked
    def execute(cls, ckpt_name: str, path: str | None = None, **more: Any) -> io.NodeOutput:
        file = known_path(path) if path else model_path("checkpoints", ckpt_name)
        embeddings = folder_paths.get_folder_paths("embeddings")
        model, clip, vae, loaded = load_checkpoint(file, embeddings, **_how(**more))
        return io.NodeOutput(model, clip, vae, ui=_ui(loaded))


class HSWQDiffusionModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQDiffusionModelLoader",
            display_name="HSWQ Diffusion Model Loader",
            category=CATEGORY,
            **found_by("fp8", "int8", "8 bit", "4 bit", "vram", "load quantized"),
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
    def fingerprint_inputs(cls, unet_name: str, **_: Any) -> int:
        return model_modification_time("diffusion_models", unet_name)

    @classmethod
    @checked
    def execute(cls, unet_name: str, path: str | None = None, **more: Any) -> io.NodeOutput:
        file = known_path(path) if path else model_path("diffusion_models", unet_name)
        model, loaded = load_diffusion_model(file, **_how(**more))
        return io.NodeOutput(model, ui=_ui(loaded))
