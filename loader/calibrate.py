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
from .as_written import as_written
from .compat import on_one_device
from .hooks import change_weights, weight_hooks
from .memory import reserved_memory
from .provenance import patches_of
from .quantized_tensor import is_quantized
from .weights import plain_layers, unpatched_weights

_KEY = "hswq_calibration"
_HOOK_ERROR = "the conditioning has a hook that puts a LoRA or another model's weights on, and no file holds that"
_BYPASS_ERROR = (
    "the layer {} was computed without its module in a part of the run or all of it; start ComfyUI without --fast, or "
    "take away what replaces the layer"
)
_HOOK_REMEDY = "Put Load LoRA before HSWQ Calibrate instead, or calibrate without the hook"


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

    Args:
        rows_per_layer: how many input rows to sample from each layer.
        source: the file that the model was loaded from ("LIST/NAME"), where it is known.
        on_step: called after each step, and at the end of a run that could not be added or written.
    """
    measured = _MeasuredSampling(
        session=session,
        rows_per_layer=rows_per_layer,
        source=source,
        on_step=on_step,
        fingerprint=session.fingerprint,
        patches=patches_of(model),
        layers=frozenset(plain_layers(model)),
    )
    return _with_wrapper(model.clone(), measured)


def _with_wrapper(clone: Any, wrapper: Any) -> Any:
    """The clone of a MODEL with this wrapper around its sampling, instead of that of another calibration."""
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, wrapper)
    return clone


@dataclass(frozen=True, eq=False)
class _MeasuredSampling:
    """Called by ComfyUI instead of sampling: samples, and adds what was measured to the session.

    ComfyUI's clones share one module, so hooks must never outlive a run: they are attached when a run of
    this clone begins and removed when it ends, also by an error. A run that fails or is cancelled adds nothing. A run
    on several devices is made on one, as modules of their own compute on the others.

    Attributes:
        fingerprint, patches: of the MODEL that was connected.
        layers: those of its checkpoint. What other tools inject into the model for a run cannot be quantized.
    """

    session: CalibrationSession
    rows_per_layer: int
    source: str
    on_step: Callable[[StepReport], None]
    fingerprint: Fingerprint
    patches: str
    layers: frozenset[str]

    def __call__(
        self, executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, denoise_mask: Any = None,
        callback: Any = None, *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        # Two models of one architecture may have been given one session name.
        self.session.check_model(self.fingerprint, self.patches)
        guider = executor.class_obj
        model = guider.model_patcher.model
        before, batch, steps = self.session.statistics, int(noise.shape[0]), len(sigmas) - 1
        progress = _RunProgress(before, batch, steps, self.on_step)
        if change_weights(guider.model_patcher, guider.conds):
            result = executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, *args, **kwargs)
            self._add(Statistics({}, fingerprint=self.fingerprint), f"{_HOOK_ERROR}. {_HOOK_REMEDY}", progress)
            return result

        levels: list[int] = []

        def after_step(number: int, *arguments: Any) -> None:
            if callback is not None:
                callback(number, *arguments)
            # Patches of the sampling act only now. Once: for every number the host waits for the device.
            if not levels:
                levels.extend(_noise_bins(model.model_sampling, sigmas))
            progress.step(number, levels, monitor.calls)

        with (
            as_written(),
            on_one_device(guider.model_patcher),
            reserved_memory(model, DEVICE_MEMORY),
            DualMonitor(
                model.diffusion_model, self.rows_per_layer, seed=before.runs, expected_calls=steps,
                earlier=before if before.runs else None, only=self.layers,
            ) as monitor,
        ):  # fmt: skip
            result = executor(noise, latent_image, sampler, sigmas, denoise_mask, after_step, *args, **kwargs)
        bypassed = monitor.bypassed()
        run = replace(
            monitor.statistics(),
            runs=1,
            samples=batch,
            steps=len(progress.bins),
            partial_runs=int(_is_a_part(noise, sigmas, model.model_sampling)),
            samplers=frozenset({_name_of(sampler)}),
            noise_levels=_counts(progress.bins),
            fingerprint=self.fingerprint,
            source=self.source,
            patches=self.patches,
        )
        self._add(run, _BYPASS_ERROR.format(bypassed) if bypassed else "", progress)
        return result

    def _add(self, run: Statistics, reason: str, progress: _RunProgress) -> None:
        """Args: reason: why the run is to be left out; empty to add it."""
        left_out = self.session.add_run(run, reason)
        if left_out or self.session.unwritten:
            progress.report_failure(self.session, left_out)


class _RunProgress:
    """Counts the steps of a run by noise level and reports them.

    Attributes:
        bins: tenth of the noise schedule of each step that called the model.
    """

    def __init__(self, before: Statistics, batch: int, steps: int, on_step: Callable[[StepReport], None]) -> None:
        self._before, self._batch, self._steps, self._on_step = before, batch, steps, on_step
        self._calls = 0
        self.bins: list[int] = []

    def step(self, number: int, levels: Sequence[int], calls: int) -> None:
        """A step is done.

        Args:
            levels: tenth of the noise schedule of each step of the run.
            calls: of the model so far; a step without a call was skipped by a cache.
        """
        if calls > self._calls and number < len(levels):
            self.bins.append(levels[number])
        self._calls = calls
        so_far = tuple(a + b for a, b in zip(self._before.noise_levels, _counts(self.bins), strict=True))
        self._on_step(StepReport(self._before.samples, self._batch, number + 1, self._steps, so_far))

    def report_failure(self, session: CalibrationSession, left_out: str) -> None:
        """The run was left out, or the session could not be written."""
        levels = self._before.noise_levels if left_out else session.statistics.noise_levels
        report = StepReport(self._before.samples, self._batch, self._steps, self._steps, levels)
        self._on_step(replace(report, left_out=left_out, unwritten=session.unwritten))


def check_conditioning(*conditionings: Sequence[Any]) -> None:
    """Errors: StatisticsError when runs with these conditionings would be left out: they change the model's weights."""
    if any(weight_hooks(extras for _, extras in conditioning) for conditioning in conditionings):
        raise StatisticsError(_HOOK_ERROR, remedy=_HOOK_REMEDY)


def _name_of(sampler: Any) -> str:
    return getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)


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
