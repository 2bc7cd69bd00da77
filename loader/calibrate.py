"""Measuring a MODEL while ComfyUI samples with it, and only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..hswq_core.calibration import DualMonitor
from ..hswq_core.calibration.monitor import DEVICE_MEMORY
from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import NOISE_BINS, Statistics
from ..hswq_core.errors import StatisticsError
from ..hswq_core.fingerprint import Fingerprint, elements_at
from .compat import is_quantized, on_one_device, uncompiled
from .hooks import change_weights, weight_hooks
from .memory import reserved_memory
from .provenance import patches_of
from .weights import plain_layers, unpatched_weights

_KEY = "hswq_calibration"
_HOOKED = "the conditioning has a hook that puts a LoRA or another model's weights on, and no file holds that"
_BYPASSED = (
    "the layer {} was computed without its module in a part of the run or all of it; start ComfyUI without --fast, or "
    "take away what replaces the layer"
)
_HOOKED_REMEDY = "Put Load LoRA before HSWQ Calibrate instead, or calibrate without the hook"


@dataclass(frozen=True)
class StepReport:
    """A step of a calibrated sampling run that is done.

    Attributes:
        images: how many the session held before this run; ``batch`` are made in it.
        step, steps: of this run, from 1.
        noise_levels: steps by tenth of the noise schedule, those of the session and this run so far.
        left_out: at the end of a run that could not be added, why.
        unwritten: at the end of a run, why the session's file could not be written; it is kept in memory meanwhile.
    """

    images: int
    batch: int
    step: int
    steps: int
    noise_levels: tuple[int, ...]
    left_out: str = ""
    unwritten: str = ""


def calibrated_clone(
    model: Any,
    session: CalibrationSession,
    rows_per_layer: int,
    source: str = "",
    on_step: Callable[[StepReport], None] = lambda _report: None,
) -> Any:
    """A clone of MODEL whose sampling runs are measured into ``session``.

    ComfyUI's clones share one module, so hooks must never outlive a run: they are attached when a run of
    this clone begins and removed when it ends, also by an error. A run that fails or is cancelled adds nothing. A run
    on several devices is made on one, as modules of their own compute on the others.
    """

    def measure(
        executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, denoise_mask: Any = None,
        callback: Any = None, *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        session.check_model(fingerprint, patches)  # two models of one architecture may have been given one session name
        guider = executor.class_obj
        patched = guider.model_patcher.model
        before, batch, steps = session.statistics, int(noise.shape[0]), len(sigmas) - 1
        bins: list[int] = []

        def add(run: Statistics, reason: str = "") -> None:
            left_out = session.add_run(run, reason)
            if left_out or session.unwritten:
                levels = before.noise_levels if left_out else session.statistics.noise_levels
                on_step(StepReport(before.samples, batch, steps, steps, levels, left_out, session.unwritten))

        if change_weights(guider.model_patcher, guider.conds):
            result = executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
            add(Statistics({}, fingerprint=fingerprint), f"{_HOOKED}. {_HOOKED_REMEDY}")
            return result
        seen = 0

        def step(number: int, *arguments: Any) -> None:
            nonlocal seen
            if callback is not None:
                callback(number, *arguments)
            # Patches of the sampling act only now; a step without a call was skipped by a cache.
            levels = _noise_bins(patched.model_sampling, sigmas)
            if monitor.calls > seen and number < len(levels):
                bins.append(levels[number])
            seen = monitor.calls
            so_far = tuple(a + b for a, b in zip(before.noise_levels, _counts(bins), strict=True))
            on_step(StepReport(before.samples, batch, number + 1, steps, so_far))

        with (
            uncompiled(),
            on_one_device(guider.model_patcher),
            reserved_memory(patched, DEVICE_MEMORY),
            DualMonitor(
                patched.diffusion_model, rows_per_layer, seed=before.runs, expected_calls=steps,
                earlier=before if before.runs else None, only=layers,
            ) as monitor,
        ):  # fmt: skip
            result = executor(noise, latent_image, sampler, sigmas, denoise_mask, step, *args, **kwargs)
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
        bypassed = monitor.bypassed()
        add(
            replace(
                monitor.statistics(),
                runs=1,
                samples=batch,
                steps=len(bins),
                partial_runs=int(_is_a_part(noise, sigmas, patched.model_sampling)),
                samplers=frozenset({name}),
                noise_levels=_counts(bins),
                fingerprint=fingerprint,
                source=source,
                patches=patches,
            ),
            _BYPASSED.format(bypassed) if bypassed else "",
        )
        return result

    fingerprint, patches = session.fingerprint, patches_of(model)
    # What other tools inject into the model for a run is not in the checkpoint, and cannot be quantized.
    layers = set(plain_layers(model))
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, measure)
    return clone


def check_conditioning(*conditionings: Sequence[Any]) -> None:
    """Errors: StatisticsError when runs with these conditionings would be left out: they change the model's weights."""
    if any(weight_hooks(extras for _, extras in conditioning) for conditioning in conditionings):
        raise StatisticsError(_HOOKED, remedy=_HOOKED_REMEDY)


def _noise_bins(sampling: Any, sigmas: torch.Tensor) -> list[int]:
    """In which tenth of the model's schedule each step of a run begins, from clean (0) to pure noise (9)."""
    lowest, highest = float(sampling.sigma_min), float(sampling.sigma_max)
    begins = [lowest, highest, *sigmas[:-1].float().clamp(lowest, highest).tolist()]
    clean, noise, *times = (float(sampling.timestep(torch.tensor(sigma))) for sigma in begins)
    return [min(NOISE_BINS - 1, int((time - clean) / (noise - clean) * NOISE_BINS)) for time in times]


def _is_a_part(noise: torch.Tensor, sigmas: torch.Tensor, sampling: Any) -> bool:
    """Whether a run hands its latent on with noise left, or goes on with one that another run has left noise in."""
    goes_on = float(sigmas[0]) < float(sampling.sigma_max) and not noise.any()
    return goes_on or float(sigmas[-1]) > 0


def _counts(bins: Sequence[int]) -> tuple[int, ...]:
    return tuple(bins.count(number) for number in range(NOISE_BINS))


def model_fingerprint(model: Any) -> Fingerprint:
    """The fingerprint of the weights a MODEL was loaded with, without LoRA or other patches.

    Errors: StatisticsError for a model that is quantized already: what it computes is not what the checkpoint holds.
    """
    layers = list(plain_layers(model))
    weight_of = unpatched_weights(model)
    if any(is_quantized(weight := weight_of(layer)) or weight.dtype.itemsize == 1 for layer in layers):
        raise StatisticsError(
            "the model to calibrate is quantized already",
            remedy="Load the original checkpoint with HSWQ Loader, which keeps its precision whatever ComfyUI prefers",
        )

    def read(layer: str, positions: Sequence[float]) -> list[float]:
        return elements_at(weight_of(layer), positions)

    return Fingerprint.of(layers, read)
