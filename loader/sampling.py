"""Measuring a MODEL while ComfyUI samples with it, and only then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..hswq_core.calibration import DualMonitor, quantizable_layers
from ..hswq_core.calibration.session import CalibrationSession
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
        with DualMonitor(unet, rows_per_layer, seed=runs) as monitor:
            result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
        session.add_run(
            replace(
                monitor.statistics(),
                runs=1,
                samples=int(noise.shape[0]),
                steps=max(0, len(sigmas) - 1),
                samplers=frozenset({name}),
                fingerprint=session.statistics.fingerprint,
            )
        )
        return result

    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, _KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, measure)
    return clone


def model_fingerprint(model: Any) -> Fingerprint:
    """The fingerprint of the weights a MODEL was loaded with, without LoRA or other patches.

    Errors: StatisticsError for a model held in FP8: what it computes is not what the checkpoint holds.
    """
    layers = dict(quantizable_layers(model.model.diffusion_model))

    def weight_of(layer: str) -> Any:
        # While a patched clone is loaded, the original weight is in the patcher's backup.
        backup = model.backup.get(f"diffusion_model.{layer}.weight")
        return layers[layer].weight if backup is None else backup.weight

    if any(is_quantized(weight := weight_of(layer)) or weight.dtype.itemsize == 1 for layer in layers):
        raise StatisticsError(
            "the model to calibrate is held in FP8 already",
            do="Load the original checkpoint with HSWQ Loader, which keeps its precision whatever ComfyUI prefers",
        )

    def middle(layer: str) -> float:
        weight = weight_of(layer)
        return float(weight.flatten()[weight.numel() // 2])

    return Fingerprint.of(list(layers), middle)
