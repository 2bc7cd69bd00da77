"""HSWQProve: whether a quantized model makes the images of the original, as a page that anyone can open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..hswq_core.files.folders import writable_folder
from ..hswq_core.proof.plan import ProofPlan
from ..loader.prove import ProvedModels, prove
from ..loader.provenance import sources_of, upstream_of, upstream_of_inputs
from .common import CATEGORY, found_by, progress_bar
from .inputs import checked
from .prompts import choose_prompts
from .sampling import prompt_inputs, sampling_inputs, seed_input
from .served import as_text_file, served
from .sources import list_of


class HSWQProve(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQProve",
            display_name="HSWQ Prove",
            category=CATEGORY,
            **found_by("compare models", "ssim", "quality"),
            description=(
                "Samples with the original and a quantized model from the same noise, compares them step by step, and "
                "writes the proof: a page with verdict, figures and pairs, and the same as JSON."
            ),
            inputs=[
                io.Model.Input("reference", tooltip="The full-precision model."),
                io.Model.Input("candidate", tooltip="The quantized model."),
                io.Clip.Input("clip", tooltip="The text encoder of both."),
                io.Vae.Input("vae", tooltip="Decodes the latents of both."),
                *prompt_inputs("pairs", "Take others than for the calibration."),
                io.Int.Input(
                    "seeds",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="How many pairs to make, each with the next prompt and seed. 25 give narrow intervals.",
                ),
                seed_input(1000, "The first seed. Each further pair adds one."),
                *sampling_inputs("that you use"),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="A CLIP vision model: images are compared by it, too, and how they fit their prompts.",
                ),
                io.Boolean.Input(
                    "save_pictures",
                    default=False,
                    optional=True,
                    tooltip="Write all images as PNG beside the page, for other tools.",
                ),
                io.Boolean.Input(
                    "keep_reference",
                    default=False,
                    optional=True,
                    tooltip="Keep what the original made: the next candidate, settings unchanged, takes half the time.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="pairs",
                    tooltip="Reference, candidate, and their difference, amplified 8 times. One row per pair.",
                ),
                io.String.Output(display_name="verdict", tooltip="Whether the candidate passes, in a sentence."),
                io.String.Output(display_name="path", tooltip="The page, proof.html. proof.json is beside it."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(
        cls,
        reference: Any,
        candidate: Any,
        clip: Any,
        vae: Any,
        prompts: str,
        negative: str,
        seeds: int,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int,
        height: int,
        clip_vision: Any = None,
        save_pictures: bool = False,
        keep_reference: bool = False,
    ) -> io.NodeOutput:
        prompt, node = cls.hidden.prompt, cls.hidden.unique_id
        listed = [sources_of(prompt, node, list_of, "model", socket) for socket in ("reference", "candidate")]
        found = prove(
            ProvedModels(reference, candidate, clip, vae, clip_vision, (listed[0], listed[1])),
            ProofPlan(
                choose_prompts(prompts), negative, seeds, seed, steps, cfg, sampler_name, scheduler, width, height
            ),
            writable_folder(Path(folder_paths.get_output_directory()) / "hswq_proof"),
            workflow=upstream_of(prompt, node),
            reference_workflow=upstream_of_inputs(prompt, node, ("reference", "clip")),
            keep_reference=keep_reference,
            save_images=save_pictures,
            on_steps=comfy.utils.ProgressBar(2 * seeds * steps).update_absolute,
            hashing=progress_bar(),
        )
        said, page = found.proof.verdict, str(found.page)
        verdict = said.as_dict() | {"notes": [found.proof.gate], "file": served(found.page)}
        told_in_app = as_text_file("Verdict", said.text, found.proof.gate)
        ui = {"text": [said.text, page], "hswq_verdict": [verdict], "hswq_app": [told_in_app]}
        return io.NodeOutput(found.images, said.text, page, ui=ui)
