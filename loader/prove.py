"""Two models sampled from the same noise, and one of them called again on what the other was called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from ..hswq_core.calibration.arguments import Argument, map_tensors
from ..hswq_core.calibration.model_inputs import OPTIONS, TOO_LARGE, not_recorded, recorded_call
from ..hswq_core.proof.pair import relative_error
from ..hswq_core.sensitivity.model_calls import call, in_one, on_device
from .compat import uncompiled
from .impact import own_options
from .sample import sample


@dataclass(frozen=True)
class SamplerSettings:
    """As KSampler has them."""

    steps: int
    cfg: float
    sampler: str
    scheduler: str


@dataclass(frozen=True)
class Run:
    """A sampling run: latents after each step, the last one clean, and calls of the model with what it gave."""

    latents: list[torch.Tensor]
    calls: list[tuple[dict[str, Argument], torch.Tensor]]


def sample_run(
    model: Any,
    positive: list[Any],
    negative: list[Any],
    latent: torch.Tensor,
    settings: SamplerSettings,
    seed: int,
    *,
    keep_calls: bool,
    on_step: Callable[[], None],
) -> Run:
    """Sample with a MODEL and keep its latents, and its calls if they are asked for."""
    latents: list[torch.Tensor] = []
    calls: list[tuple[dict[str, Argument], torch.Tensor]] = []

    def step(_number: int, _denoised: Any, noisy: torch.Tensor, *_: Any) -> None:
        latents.append(noisy.detach().float().cpu())
        on_step()

    with _recorded(model, calls) if keep_calls else nullcontext():
        final = sample(
            model, positive, negative, latent, steps=settings.steps, cfg=settings.cfg, sampler=settings.sampler,
            scheduler=settings.scheduler, seed=seed, callback=step,
        )  # fmt: skip
    # Before the first step both models have the same noise.
    return Run([*latents[1:], final.float().cpu()], calls)


def forced_errors(model: Any, run: Run) -> tuple[float, ...]:
    """The relative squared error of a MODEL's output on another's inputs, by call; empty where they were not kept."""
    if any(set(not_recorded(entry)) - TOO_LARGE.keys() for entry, _ in run.calls):
        return ()
    comfy.model_management.load_models_gpu([model])
    options = {OPTIONS: own_options(model)}
    found = []
    with torch.inference_mode(), uncompiled():
        for entry, expected in run.calls:
            output = call(model.model.diffusion_model, on_device(model.load_device, entry), options)
            found.append(relative_error(expected, output.float().cpu().view_as(expected)))
    return tuple(found)


@contextmanager
def _recorded(model: Any, calls: list[tuple[dict[str, Argument], torch.Tensor]]) -> Iterator[None]:
    root = model.model.diffusion_model
    entries: list[dict[str, Argument]] = []

    def before(_root: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entries.append(map_tensors(recorded_call(args, kwargs), lambda tensor: tensor.to("cpu", copy=True)))

    def after(_root: Any, _args: Any, output: Any) -> None:
        calls.append((entries.pop(), in_one(output).detach().float().cpu()))

    handles = [root.register_forward_pre_hook(before, with_kwargs=True), root.register_forward_hook(after)]
    try:
        with uncompiled():
            yield
    finally:
        for handle in handles:
            handle.remove()
