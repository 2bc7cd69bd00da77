"""HSWQProve: whether a quantized model draws what the original draws, as a page that anyone can open."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..hswq_core.files.folders import writable_folder
from ..hswq_core.metrics import compare_images, mse
from ..hswq_core.proof import Pair, Proof, compare_latents
from ..hswq_core.proof.page import Pictures
from ..hswq_core.proof.picture_metrics import picture_metrics
from ..hswq_core.proof.runs import UnfinishedRuns
from ..hswq_core.proof.shown_pairs import ShownPairs
from ..hswq_core.version import __version__
from ..loader.clip_metrics import ClipMetrics
from ..loader.latents import empty_latent
from ..loader.prove import Sampling, paired_runs
from ..loader.provenance import patches_of, sources_of, upstream_of
from ..loader.sample import encode
from ..loader.weights import weights_digest
from .common import CATEGORY
from .inputs import checked
from .pictures import data_uri
from .prompts import choose_prompts
from .proof_files import draw_pair, files_behind, name_of, proved_file, write_proof
from .sources import list_of


class HSWQProve(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQProve",
            display_name="HSWQ Prove",
            category=CATEGORY,
            description=(
                "Samples with the original and a quantized model from the same noise, compares them step by step, and "
                "writes the proof: a page with verdict, figures and pairs, and the same as JSON."
            ),
            inputs=[
                io.Model.Input("reference", tooltip="The full-precision model."),
                io.Model.Input("candidate", tooltip="The quantized model."),
                io.Clip.Input("clip", tooltip="The text encoder of both."),
                io.Vae.Input("vae", tooltip="Decodes the latents of both."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip=(
                        "One prompt per line, or the name of a text file in the input folder. Empty: a varied list. "
                        "Take others than for the calibration."
                    ),
                ),
                io.String.Input("negative", default="", multiline=True, tooltip="The negative prompt of all pairs."),
                io.Int.Input(
                    "seeds",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="How many pairs to make, each with the next prompt and seed. 25 give narrow intervals.",
                ),
                io.Int.Input(
                    "seed", default=1000, min=0, max=2**63 - 1, tooltip="The first seed. Each further pair adds one."
                ),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Sampling steps of each picture."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="The guidance that you use."),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The sampler that you use."
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="The scheduler that you use."
                ),
                io.Int.Input("width", default=1024, min=64, max=8192, step=8, tooltip="Width in pixels."),
                io.Int.Input("height", default=1024, min=64, max=8192, step=8, tooltip="Height in pixels."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="A CLIP vision model: pictures are compared by it, too, and how they fit their prompts.",
                ),
                io.Boolean.Input(
                    "save_pictures",
                    default=False,
                    optional=True,
                    tooltip="Write all pictures as PNG beside the page, for other tools.",
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
    ) -> io.NodeOutput:
        texts = choose_prompts(prompts)
        plan = [(texts[number % len(texts)], seed + number) for number in range(seeds)]
        bar = comfy.utils.ProgressBar(2 * seeds * steps)
        sampling = Sampling(
            positive={text: encode(clip, [text]) for text in texts[:seeds]},
            negative=encode(clip, [negative]),
            latent=empty_latent(reference, 1, width, height),
            plan=plan,
            steps=steps,
            cfg=cfg,
            sampler=sampler_name,
            scheduler=scheduler,
            on_steps=bar.update_absolute,
        )
        made = {
            "steps": steps, "cfg": cfg, "sampler": sampler_name, "scheduler": scheduler, "width": width,
            "height": height, "negative": negative, "first_seed": seed, "hswq": __version__, "torch": torch.__version__,
            "device": str(reference.load_device),
        }  # fmt: skip
        folder = writable_folder(Path(folder_paths.get_output_directory()) / "hswq_proof")
        nodes = upstream_of(cls.hidden.prompt, cls.hidden.unique_id)
        models = [(weights_digest(model), patches_of(model)) for model in (reference, candidate)]
        runs = UnfinishedRuns(folder / "unfinished", [made, plan, nodes, models])
        judge = ClipMetrics(clip_vision, clip) if clip_vision is not None else None
        pairs, pictures, shown = [], [], ShownPairs(seeds)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as temporary:
            unfinished = Path(temporary) / "made"
            unfinished.mkdir()
            both = paired_runs(reference, candidate, sampling, runs)
            for number, ((text, at), (one, other)) in enumerate(zip(plan, both, strict=True)):
                comfy.model_management.throw_exception_if_processing_interrupted()
                decoded = [_decoded(vae, run.latents[-1]) for run in (one, other)]
                images = compare_images(*decoded)
                metrics = {"latent_mse": mse(one.latents[-1], other.latents[-1])} | picture_metrics(*decoded)
                metrics |= judge.of_pair(text, *decoded) if judge else {}
                cosine, error = compare_latents(one.latents, other.latents)
                pairs.append(Pair(text, at, cosine, error, other.forced_error, images.ssim, images.psnr, metrics))
                shown.add(images.side_by_side)
                pictures.append(Pictures(*(data_uri(each[0]) for each in (*decoded, images.difference))))
                if save_pictures:
                    draw_pair(unfinished, number, decoded)
            sides = {"reference": reference, "candidate": candidate}
            behind = {side: cls._files(side, model) for side, model in sides.items()}
            names = {side: name_of(behind[side], model, side) for side, model in sides.items()}
            files = {side: file for side, model in sides.items() if (file := proved_file(behind[side], model))}
            proof = Proof(names["reference"], names["candidate"], tuple(pairs), made, files)
            page = write_proof(folder, proof, pictures, shown.images, unfinished)
        runs.remove()
        verdict = {"text": proof.verdict, "warnings": [] if proof.passed and not proof.identical else [proof.verdict]}
        ui = {"text": [proof.verdict, str(page)], "hswq_verdict": [verdict]}
        return io.NodeOutput(shown.images, proof.verdict, str(page), ui=ui)

    @classmethod
    def _files(cls, socket: str, model: Any) -> set[Path]:
        """The files that the model behind a socket was opened from."""
        listed = sources_of(cls.hidden.prompt, cls.hidden.unique_id, list_of, "model", socket)
        return files_behind(listed, model)


def _decoded(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """Pictures [B, H, W, 3]; the frames of a video one after another."""
    images = vae.decode(latent)
    return images.flatten(0, 1) if images.dim() == 5 else images
