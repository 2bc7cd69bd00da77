"""HSWQCompareModels: how far a quantized model drifts from the original, step by step, over several seeds."""

from __future__ import annotations

import json
from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io

from ..hswq_core.metrics import compare_images, compare_trajectories
from ..loader.sample import sample
from .common import CATEGORY


class HSWQCompareModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSWQCompareModels",
            display_name="HSWQ Compare Models",
            category=CATEGORY,
            description=(
                "Samples with two models from the same noise, for several seeds. Shows how far their latents drift "
                "apart at each step, and how much the images differ."
            ),
            inputs=[
                io.Model.Input("reference", tooltip="The full-precision model."),
                io.Model.Input("candidate", tooltip="The quantized model."),
                io.Vae.Input("vae", tooltip="Decodes the latents."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Latent.Input("latent", tooltip="An empty latent of the size to compare at."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**63 - 1, tooltip="The first seed. Each further seed adds one."
                ),
                io.Int.Input("seeds", default=4, min=1, max=256, tooltip="How many seeds to compare."),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The sampler."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="The scheduler."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="comparison",
                    tooltip="Reference, candidate, and their difference, amplified 8 times. One row per seed.",
                ),
                io.Float.Output(display_name="latent_mse", tooltip="Mean squared error of the final latents."),
                io.Float.Output(
                    display_name="ssim", tooltip="Structural similarity of the images, the mean over the seeds."
                ),
                io.String.Output(display_name="report", tooltip="All figures, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        reference: Any,
        candidate: Any,
        vae: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        seed: int,
        seeds: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
    ) -> io.NodeOutput:
        bar, done = comfy.utils.ProgressBar(2 * seeds * steps), 0

        def trajectories(model: Any) -> list[list[torch.Tensor]]:
            runs = []
            for number in range(seeds):
                run: list[torch.Tensor] = []

                def step(
                    _index: int, _denoised: Any, noisy: torch.Tensor, *_: Any, run: list[torch.Tensor] = run
                ) -> None:
                    nonlocal done
                    done += 1
                    bar.update_absolute(done)
                    run.append(noisy.float().cpu())

                final = sample(
                    model, positive, negative, latent["samples"], steps=steps, cfg=cfg, sampler=sampler_name,
                    scheduler=scheduler, seed=seed + number, callback=step,
                )  # fmt: skip
                runs.append([*run[1:], final.float().cpu()])
            return runs

        ours, theirs = trajectories(reference), trajectories(candidate)
        drift = compare_trajectories(ours, theirs)
        images = [torch.cat([vae.decode(run[-1]) for run in runs]) for runs in (ours, theirs)]
        images = compare_images(*images)
        latent_mse = sum(drift.each) / len(drift.each)
        report = {
            "seeds": seeds,
            "latent_mse": latent_mse,
            "worst_latent_mse": max(drift.each),
            "relative_error_by_step": drift.by_step,
            "worst_relative_error_by_step": drift.worst_by_step,
            **images.figures(),
        }
        return io.NodeOutput(images.side_by_side, latent_mse, images.ssim, json.dumps(report, indent=2))
