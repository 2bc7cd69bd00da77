"""Measuring a MODEL while ComfyUI samples with it, and only then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from ..hswq_core.calibration import DualMonitor, quantizable_layers
from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import NOISE_BINS
from ..hswq_core.errors import StatisticsError
from ..hswq_core.fingerprint import Fingerprint
from .compat import is_quantized

_KEY = "hswq_calibration"


def calibrated_clone(model: Any, session: CalibrationSession, rows_per_layer: int) -> Any:
    """A clone of MODEL whose sampling runs are measured into ``session``.

    ComfyUI's clones share one module, so hooks must never outlive a run: they are attached when a run of
    this clone begins and removed when it ends, whichever way. A run that fails or is cancelled adds nothing.
    """

    def measure(
        executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        unet = executor.class_obj.model_patcher.model.diffusion_model
        runs = session.statistics.runs
        with DualMonitor(unet, rows_per_layer, seed=runs, expected_calls=len(sigmas) - 1) as monitor:
            result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        sampling = executor.class_obj.model_patcher.model.model_sampling
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
        session.add_run(
            replace(
                monitor.statistics(),
                runs=1,
                samples=int(noise.shape[0]),
                steps=max(0, len(sigmas) - 1),
                samplers=frozenset({name}),
                noise_levels=_noise_levels(sampling, sigmas),
                fingerprint=session.statistics.fingerprint,
            )
        )
        return result

    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, measure)
    return clone


def _noise_levels(sampling: Any, sigmas: torch.Tensor) -> tuple[int, ...]:
    """How many steps of a run began in each tenth of the model's schedule, from clean to pure noise."""
    lowest, highest = float(sampling.sigma_min), float(sampling.sigma_max)
    begins = [lowest, highest, *sigmas[:-1].float().clamp(lowest, highest).tolist()]
    clean, noise, *times = (float(sampling.timestep(torch.tensor(sigma))) for sigma in begins)
    bins = [min(NOISE_BINS - 1, int((time - clean) / (noise - clean) * NOISE_BINS)) for time in times]
    return tuple(bins.count(number) for number in range(NOISE_BINS))


def model_fingerprint(model: Any) -> Fingerprint:
    """The fingerprint of the weights a MODEL was loaded with, without LoRA or other patches.

    Errors: StatisticsError for a model held in FP8: what it computes is not what the checkpoint holds.
    """
    layers = [name for name, _ in quantizable_layers(model.model.diffusion_model)]
    weight_of = unpatched_weights(model)
    if any(is_quantized(weight := weight_of(layer)) or weight.dtype.itemsize == 1 for layer in layers):
        raise StatisticsError(
            "the model to calibrate is held in FP8 already",
            do="Load the original checkpoint with HSWQ Loader, which keeps its precision whatever ComfyUI prefers",
        )

    def middle(layer: str) -> float:
        weight = weight_of(layer)
        return float(weight.detach().flatten()[weight.numel() // 2])

    return Fingerprint.of(layers, middle)


def unpatched_weights(model: Any) -> Callable[[str], torch.Tensor]:
    """The weight of a layer as it was loaded, by the layer's name."""
    modules = dict(quantizable_layers(model.model.diffusion_model))

    def weight_of(layer: str) -> Any:
        # While a patched clone is loaded, the original weight is in the patcher's backup.
        backup = model.backup.get(f"diffusion_model.{layer}.weight")
        return modules[layer].weight if backup is None else backup.weight

    return weight_of
