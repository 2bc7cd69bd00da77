"""HSWQProve: whether a quantized model draws what the original draws, as a page that anyone can open."""

from __future__ import annotations

import base64
import io as bytes_io
import json
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from PIL import Image

from ..hswq_core.files.names import next_free, usable_name
from ..hswq_core.metrics import compare_images
from ..hswq_core.proof import Pair, Proof, compare_latents, proof_page
from ..hswq_core.proof.page import Pictures
from ..hswq_core.publishing.shown_proof import PICTURE
from ..hswq_core.version import __version__
from ..loader.latents import empty_latent
from ..loader.prove import SamplerSettings, forced_errors, sample_run
from ..loader.provenance import patches_of, sources_of
from ..loader.sample import encode
from .common import CATEGORY
from .prompts import choose_prompts
from .sources import list_of

_PAIRS_IN_A_PICTURE = 4


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
    ) -> io.NodeOutput:
        texts = choose_prompts(prompts)
        settings = SamplerSettings(steps, cfg, sampler_name, scheduler)
        wanted = {text: encode(clip, [text]) for text in texts[:seeds]}
        unwanted = encode(clip, [negative])
        latent = empty_latent(reference, 1, width, height)
        bar = comfy.utils.ProgressBar(2 * seeds * steps)
        plan = [(texts[number % len(texts)], seed + number) for number in range(seeds)]

        def run(model: Any, number: int, *, keep_calls: bool) -> Any:
            text, at = plan[number]
            return sample_run(
                model, wanted[text], unwanted, latent, settings, at, keep_calls=keep_calls,
                on_step=lambda: bar.update(1),
            )  # fmt: skip

        # Model by model, as a card may not hold both.
        ours = [run(reference, number, keep_calls=True) for number in range(seeds)]
        theirs = [run(candidate, number, keep_calls=False) for number in range(seeds)]
        pairs, rows, pictures = [], [], []
        for (text, at), one, other in zip(plan, ours, theirs, strict=True):
            comfy.model_management.throw_exception_if_processing_interrupted()
            drawn = [_decoded(vae, each.latents[-1]) for each in (one, other)]
            images = compare_images(*drawn)
            cosine, error = compare_latents(one.latents, other.latents)
            forced = forced_errors(candidate, one)
            pairs.append(Pair(text, at, cosine, error, forced, images.ssim, images.psnr))
            rows.append(images.side_by_side)
            pictures.append(Pictures(_data_uri(drawn[0][0]), _data_uri(drawn[1][0]), _data_uri(images.difference[0])))
        made = {
            "steps": steps, "cfg": cfg, "sampler": sampler_name, "scheduler": scheduler, "width": width,
            "height": height, "negative": negative, "first_seed": seed, "hswq": __version__, "torch": torch.__version__,
            "device": str(reference.load_device),
        }  # fmt: skip
        proof = Proof(cls._name("reference", reference), cls._name("candidate", candidate), tuple(pairs), made)
        shown = torch.cat(rows)
        page = _written(proof, proof_page(proof, pictures), shown)
        verdict = {"text": proof.verdict, "warnings": [] if proof.passed and not proof.identical else [proof.verdict]}
        ui = {"text": [proof.verdict, str(page)], "hswq_verdict": [verdict]}
        return io.NodeOutput(shown, proof.verdict, str(page), ui=ui)

    @classmethod
    def _name(cls, socket: str, model: Any) -> str:
        """The file behind a socket, and whether there is something on top of it."""
        files = sources_of(cls.hidden.prompt, cls.hidden.unique_id, list_of, "model", socket)
        name = "+".join(sorted(Path(file).name for file in files)) or socket
        return f"{name} with patches" if patches_of(model) else name


def _decoded(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """Pictures [B, H, W, 3]; the frames of a video one after another."""
    images = vae.decode(latent)
    return images.flatten(0, 1) if images.dim() == 5 else images


def _data_uri(image: torch.Tensor) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(_jpeg(image)).decode('ascii')}"


def _jpeg(image: torch.Tensor) -> bytes:
    """A picture [H, W, 3] in [0, 1]."""
    data = bytes_io.BytesIO()
    Image.fromarray((image * 255).round().clamp(0, 255).byte().cpu().numpy()).save(data, "JPEG", quality=90)
    return data.getvalue()


def _written(proof: Proof, page: str, pairs: torch.Tensor) -> Path:
    """The page, with the proof and a picture of some pairs beside it, in a new folder."""
    folder = Path(folder_paths.get_output_directory()) / "hswq_proof" / usable_name(Path(proof.candidate).stem)
    folder = next_free(folder)
    folder.mkdir(parents=True)
    (folder / "proof.json").write_text(json.dumps(proof.as_dict(), indent=1, ensure_ascii=False), "utf-8")
    (folder / "proof.html").write_text(page, "utf-8")
    (folder / PICTURE).write_bytes(_jpeg(pairs[:_PAIRS_IN_A_PICTURE].flatten(0, 1)))
    return folder / "proof.html"
