"""HSWQQuantize: a checkpoint on disk and its statistics become an FP8 checkpoint."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..hswq_core import quantize
from ..hswq_core.files.folders import writable_folder
from ..hswq_core.files.names import default_name, next_free, safe_file_name
from ..hswq_core.files.writer import check_target
from ..hswq_core.formats import FORMATS
from ..hswq_core.options import PARTS, ROUNDINGS, SCALES, SELECTIONS
from ..hswq_core.parallel import WORKING_MEMORY
from ..hswq_core.planning.budget import check_budget
from ..hswq_core.recipes import CUSTOM, RECIPES
from ..loader.images import data_uri
from ..loader.memory import make_room
from .common import CATEGORY, HSWQStats, found_by, progress_bar, quantize_options, statistics_of, work_device
from .connected import Connected, source_to_quantize
from .events import work_events
from .inputs import checked
from .measure import looked_at, measured_stats
from .run_times import kind_of, timed
from .served import as_text_file
from .sources import sources

_THUMBNAIL = 256
"""Pixels of the longest side, as the ModelSpec wants it."""


class HSWQQuantize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQQuantize",
            display_name="HSWQ Quantize",
            category=CATEGORY,
            **found_by("quantize", "compress", "smaller", "shrink", "vram", "fp8", "int8", "int4", "8 bit", "4 bit"),
            description=(
                "Writes an 8-bit copy of a checkpoint. The most sensitive layers stay unchanged, and so does "
                "everything that is not part of the diffusion model."
            ),
            inputs=[
                io.Combo.Input(
                    "source",
                    options=sources(),
                    tooltip="The checkpoint to quantize. Default: the model that was calibrated, found by its weights.",
                ),
                HSWQStats.Input("stats", tooltip="The statistics of HSWQ Calibrate."),
                io.Combo.Input(
                    "mode",
                    options=list(FORMATS),
                    default="v2",
                    tooltip=(
                        "v1: plain FP8 for any loader. v2: scaled FP8, more exact, for HSWQ Loader. int8: integers, "
                        "more exact, for HSWQ Loader. mixed: 2 to 16 bits by layer, for any size, for HSWQ "
                        "Loader. comfy, comfy-int8 and comfy-mixed (4, 8 or 16 bits by layer): for the loaders of "
                        "recent ComfyUI itself; convolutions stay FP16."
                    ),
                ),
                io.Float.Input(
                    "keep_ratio",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "The share of the layers that keep full precision. 0.25 is safe, 0.10 gives a smaller file."
                    ),
                ),
                io.Combo.Input(
                    "selection",
                    options=list(SELECTIONS),
                    default="variance",
                    tooltip=(
                        "Which layers are kept. variance: those whose output varies most. error: those whose "
                        "output changes "
                        "most. measured: those that change the model's output most; measured if the model is connected."
                    ),
                ),
                io.Combo.Input(
                    "rounding",
                    options=list(ROUNDINGS),
                    default="nearest",
                    tooltip=(
                        "How weights are rounded. nearest: each to the closest value; takes seconds. "
                        "calibrated: so "
                        "that errors cancel in the layer's output; same size, closer image, takes minutes."
                    ),
                ),
                io.String.Input(
                    "filename",
                    default="",
                    tooltip=(
                        "Empty: NAME_hswq_r(samples)_r(keep ratio)_(mode), with what else differs, and the next free "
                        "number."
                    ),
                ),
                io.AnyType.Input(
                    "after",
                    optional=True,
                    tooltip="Connect the sampled latent or the image, so that this node runs after the calibration.",
                ),
                io.String.Input(
                    "budget",
                    default="",
                    optional=True,
                    tooltip="The largest size of the file: 3.2GB, or 57% of the source. Empty: the keep ratio decides.",
                ),
                io.Boolean.Input("overwrite", default=False, optional=True, tooltip="Replace a file of the same name."),
                io.String.Input(
                    "force_keep",
                    default="",
                    optional=True,
                    tooltip=(
                        "Layers to keep in any case: names with * and ?, separated by commas. Example: *.attn2.to_v"
                    ),
                ),
                io.String.Input(
                    "force_quantize",
                    default="",
                    optional=True,
                    tooltip="Layers to quantize in any case, in the same form. HSWQ Report lists the names.",
                ),
                io.Combo.Input(
                    "scales",
                    options=list(SCALES),
                    default="tensor",
                    optional=True,
                    tooltip=(
                        "v2 only. tensor: one scale per layer (standard HSWQ). channel: one per output "
                        "channel, closer at the "
                        "same size. HSWQ Loader opens both."
                    ),
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "The model that was calibrated. What is connected is written, with LoRAs and merges baked in. "
                        "Not connected: the file is quantized as it is on disk."
                    ),
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder to write. Not connected: that of the source file."
                ),
                io.Vae.Input("vae", optional=True, tooltip="The VAE to write. Not connected: that of the source file."),
                io.Combo.Input(
                    "part",
                    options=list(PARTS),
                    default="unet",
                    optional=True,
                    tooltip=(
                        "What is quantized: the diffusion model, the text encoders (by their weights alone), or all. "
                        "v1, v2, comfy and mixed only."
                    ),
                ),
                io.Boolean.Input(
                    "rotate",
                    default=False,
                    optional=True,
                    tooltip=(
                        "int8 and comfy-int8 only. Rotates a layer's inputs where that makes the product of integers "
                        "(compute fast, and ComfyUI's own) closer to the original. Needs sampled rows."
                    ),
                ),
                io.String.Input(
                    "target",
                    default="",
                    optional=True,
                    tooltip=(
                        "mixed and comfy-mixed only. The error of the model's output that you accept, as in 1e-4: the "
                        "smallest such file is written. Empty, and no budget: where more bytes stop paying."
                    ),
                ),
                io.Image.Input(
                    "thumbnail",
                    optional=True,
                    tooltip="A picture that sites and browsers of models show: it is put into the file, made small.",
                ),
                # The last one: workflows save values by their places. The page draws it first.
                io.Combo.Input(
                    "recipe",
                    options=list(RECIPES),
                    default=CUSTOM,
                    optional=True,
                    tooltip=(
                        "What the file is for. best quality: closest to the original. smallest good: 2 to 16 bits by "
                        "layer. for everyone: any FP8 loader opens it. fast: for compute fast of HSWQ Loader. HSWQ "
                        "model card: as published. custom: the fields as they are."
                    ),
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="path",
                    tooltip="The file that was written. Connect it to the path input of HSWQ Loader.",
                ),
                io.String.Output(display_name="report", tooltip="What was done, as JSON."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(
        cls,
        source: str,
        stats: Any,
        mode: str,
        keep_ratio: float,
        filename: str,
        overwrite: bool = False,
        after: Any = None,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        thumbnail: Any = None,
        **more: Any,
    ) -> io.NodeOutput:
        statistics = statistics_of(stats)
        shown = "" if thumbnail is None else data_uri(thumbnail[0], _THUMBNAIL)
        options = quantize_options(more | {"mode": mode, "keep_ratio": keep_ratio, "thumbnail": shown})
        connected = Connected(model, clip, vae, cls.hidden.prompt, cls.hidden.unique_id)
        alone = options.part == "text_encoders"
        with source_to_quantize(source, statistics, connected, text_encoders_alone=alone) as (folder, stem, matched):
            name = filename or default_name(f"{stem}.safetensors", statistics.samples, options)
            target = writable_folder(Path(folder_paths.get_output_directory()) / folder) / safe_file_name(name)
            if not filename and not overwrite:
                target = next_free(target)
            check_target(target, overwrite=overwrite)  # before minutes of measuring
            check_budget(matched.source, options)
            if options.selection == "measured" and model is not None:
                kind = kind_of("measuring", options, matched.weights.values(), torch.device(model.load_device))
                statistics = statistics_of(measured_stats(model, stats, options, cls.hidden.unique_id, kind))
            device = work_device()
            make_room(device, WORKING_MEMORY)
            tell = partial(work_events, cls.hidden.unique_id, progress_bar())
            told = {"planning": tell("planning"), "progress": tell("rounding")}
            with timed(kind_of("rounding", options, matched.weights.values(), device)):
                report = quantize(matched, target, statistics, options, device=device, overwrite=overwrite, **told)
        if model is not None and statistics.inputs and report.plan.quantized:
            report = looked_at(report, model, statistics, cls.hidden.unique_id)
        said = json.dumps(report.as_dict(), indent=2)
        verdict = report.verdict.as_dict() | {
            "notes": report.notes, "warnings": report.warnings, "name": target.name, "path": str(target),
        }  # fmt: skip
        told_in_app = as_text_file("The copy", report.verdict.text, report.summary, *report.notes, *report.warnings)
        shown_on = {"text": [str(report)], "report": [said], "hswq_verdict": [verdict], "hswq_app": [told_in_app]}
        return io.NodeOutput(str(target), said, ui=shown_on)
