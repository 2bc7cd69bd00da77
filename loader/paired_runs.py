"""Samples two models from the same noise, and calls one of them again on the inputs of the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import torch

from ..hswq_core.calibration.arguments import Argument, map_tensors
from ..hswq_core.calibration.model_inputs import OPTIONS, TOO_LARGE, ModelInput, not_recorded, recorded_call
from ..hswq_core.log import get_logger
from ..hswq_core.proof.pair import relative_error
from ..hswq_core.proof.plan import ProofPlan
from ..hswq_core.proof.runs import Run, UnfinishedRuns
from ..hswq_core.sensitivity.model_calls import as_one_tensor, call, on_device
from .as_written import as_written
from .compat import on_one_device
from .hooks import weight_hooks
from .impact import own_options
from .sample import sample

logger = get_logger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How both models are sampled.

    Attributes:
        plan: prompts, seeds and settings.
        positive: the conditioning of each prompt.
        on_steps: called with the steps that were made of both models together.
    """

    plan: ProofPlan
    positive: Mapping[str, list[Any]]
    negative: list[Any]
    latent: torch.Tensor
    on_steps: Callable[[int], None]

    def has_weight_hooks(self, number: int) -> bool:
        """Whether a pair is sampled with a LoRA that comes with the conditioning."""
        prompt, _ = self.plan.pairs[number]
        parts = [*self.positive[prompt], *self.negative]
        return bool(weight_hooks(extras for _, extras in parts))


def paired_runs(
    reference: Any, candidate: Any, sampling: Sampling, runs: tuple[UnfinishedRuns, UnfinishedRuns]
) -> Iterator[tuple[Run, Run]]:
    """The runs of two MODELs, pair by pair; those that ``runs`` of either have already are not sampled again.

    One model is sampled after the other, as a card may not hold both, and one pair is in memory at a time.
    """

    numbers, (kept, kept_of_candidate) = range(sampling.plan.count), runs

    def ours(number: int) -> Run:
        def make() -> Run:
            # Hooks of the conditioning would not act when the candidate is called again on these inputs.
            logger.info("HSWQ: sampling the original, %d of %d", number + 1, len(numbers))
            return _sampled(reference, sampling, number, number, keep_calls=not sampling.has_weight_hooks(number))

        return kept.run(f"reference_{number}", make)

    def theirs(number: int) -> Run:
        def make() -> Run:
            logger.info("HSWQ: sampling the candidate, %d of %d", number + 1, len(numbers))
            run = _sampled(candidate, sampling, number, len(numbers) + number, keep_calls=False)
            return replace(run, forced_error=forced_errors(candidate, ours(number)))

        return kept_of_candidate.run(f"candidate_{number}", make)

    for done, (side, number) in enumerate(itertools.product((ours, theirs), numbers), 1):
        side(number)
        sampling.on_steps(sampling.plan.steps * done)
    for number in numbers:
        yield ours(number), theirs(number)


def _sampled(model: Any, sampling: Sampling, number: int, runs_before: int, *, keep_calls: bool) -> Run:
    """Sample with a MODEL and keep its latents, and its calls if they are asked for."""
    latents: list[torch.Tensor] = []
    calls: list[tuple[ModelInput, torch.Tensor]] = []
    plan = sampling.plan
    prompt, seed = plan.pairs[number]

    def step(done: int, _denoised: Any, noisy: torch.Tensor, *_: Any) -> None:
        latents.append(noisy.detach().float().cpu())
        sampling.on_steps(plan.steps * runs_before + done + 1)

    with on_one_device(model), _recorded(model, calls) if keep_calls else nullcontext():
        final = sample(
            model, sampling.positive[prompt], sampling.negative, sampling.latent, steps=plan.steps, cfg=plan.cfg,
            sampler=plan.sampler, scheduler=plan.scheduler, seed=seed, callback=step,
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
    with torch.inference_mode(), as_written():
        for entry, expected in run.calls:
            output = call(model.model.diffusion_model, on_device(model.load_device, dict(entry)), options)
            found.append(relative_error(expected, output.float().cpu().view_as(expected)))
    return tuple(found)


@contextmanager
def _recorded(model: Any, calls: list[tuple[ModelInput, torch.Tensor]]) -> Iterator[None]:
    root = model.model.diffusion_model
    entries: list[dict[str, Argument]] = []

    def before(_root: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entries.append(map_tensors(recorded_call(args, kwargs), lambda tensor: tensor.to("cpu", copy=True)))

    def after(_root: Any, _args: Any, output: Any) -> None:
        calls.append((entries.pop(), as_one_tensor(output).detach().float().cpu()))

    handles = [root.register_forward_pre_hook(before, with_kwargs=True), root.register_forward_hook(after)]
    try:
        with as_written():
            yield
    finally:
        for handle in handles:
            handle.remove()
