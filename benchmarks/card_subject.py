"""SDXL's UNet as ComfyUI builds it, on a card that is not there, and steps of what HSWQ does with it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .card_counts import CardCounter, StepCount
from .fake_card import CARD, DIFFERENTIABLE, fake_card
from .sdxl_shapes import sdxl_unet

STEPS, RUN = 25, 2
"""Steps of a sampling run, and how many are made: the last of them is told, since the first makes room."""
KEPT = 10
"""Every so many layers one stays as it was, as with the model card's keep ratio of 0.1."""


@dataclass(frozen=True)
class Mode:
    """A way to run the model.

    Attributes:
        forms: what quantized layers are stored as, by turns: names of forms; none is plain FP16 and stock operations.
        fast: whether quantized Linear layers are multiplied in 8 bits.
        rows: input rows to sample of each layer; ``None`` is not calibrated.
        is_gradient: a backward pass of measuring sensitivity, and not a step of sampling.
    """

    forms: tuple[str, ...] = ()
    fast: bool = False
    rows: int | None = None
    is_gradient: bool = False


MODES: Mapping[str, Mode] = {
    "plain": Mode(),
    "calibrating": Mode(rows=0),
    "calibrating, 1,024 rows": Mode(rows=1024),
    "V2": Mode(forms=("v2",)),
    "V2, fast": Mode(forms=("v2",), fast=True),
    "int8": Mode(forms=("int8",)),
    "int8, fast": Mode(forms=("int8",), fast=True),
    "mixed": Mode(forms=("int4", "int6", "int8")),
    "sensitivity, a backward pass": Mode(is_gradient=True),
}


class _EnoughError(Exception):
    """Ends a run whose steps were counted: a card's results are never read."""


def count(mode: Mode, *, kernels: bool) -> StepCount:
    """One step of two latents of 1024 x 1024 pixels."""
    # Gradients are of tensors that were not made in inference mode, and those without data cannot be given another.
    with torch.inference_mode(not mode.is_gradient), fake_card(kernels=kernels) as counter:
        patcher = _model(mode)
        return _backward_pass(patcher, counter) if mode.is_gradient else _step(patcher, mode, counter)


def _model(mode: Mode) -> Any:
    """SDXL as a MODEL whose weights are on the card."""
    import comfy.model_detection
    import comfy.model_patcher
    import comfy.ops
    from hswq.loader.fast import operations_for  # type: ignore[import-not-found]
    from hswq.loader.ops import HSWQOperations  # type: ignore[import-not-found]

    device = DIFFERENTIABLE if mode.is_gradient else CARD
    shapes = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in sdxl_unet().items()}
    config = comfy.model_detection.model_config_from_unet(shapes, "")
    config.set_inference_dtype(torch.float16, None)
    held = operations_for(True, True) if mode.fast else HSWQOperations
    config.custom_operations = held if mode.forms else comfy.ops.disable_weight_init
    model = config.get_model({}, "", device=device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    if mode.forms:
        _quantize(model.diffusion_model, mode.forms)
    return comfy.model_patcher.ModelPatcher(model, device, torch.device("cpu"))


def _quantize(root: torch.nn.Module, names: tuple[str, ...]) -> None:
    """Give the layers codes, as a file's are."""
    from hswq.hswq_core.calibration import quantizable_layers  # type: ignore[import-not-found]
    from hswq.hswq_core.files.decode import LayerDecoder  # type: ignore[import-not-found]
    from hswq.hswq_core.formats.mixed import MIXED  # type: ignore[import-not-found]
    from hswq.hswq_core.formats.v2 import V2  # type: ignore[import-not-found]
    from hswq.hswq_core.grids.group_scales import groups_of  # type: ignore[import-not-found]
    from hswq.loader.quantized_tensor import quantized_tensor  # type: ignore[import-not-found]

    known = {"v2": V2.form, **{form.name: form for form in MIXED.menu}}
    forms = cycle(known[name] for name in names)
    for number, (_, module) in enumerate(quantizable_layers(root)):
        if number % KEPT == KEPT - 1:
            continue
        form, layer = next(forms), _any(module)
        shape = tuple(layer.weight.shape)
        scale = {
            "tensor": torch.ones((), device=CARD),
            "channel": torch.ones(shape[0], *(1 for _ in shape[1:]), device=CARD),
            "group": torch.ones(shape[0], groups_of(math.prod(shape[1:])), dtype=torch.float16, device=CARD),
        }[form.scaling]
        dtype = form.grid.dtype if form.bits == 8 else torch.uint8
        codes = torch.empty(form.stored_shape(shape), dtype=dtype, device=CARD)
        decoder = LayerDecoder(scale, None, 1, (), shape, form.bits)
        held = quantized_tensor(codes, decoder, torch.float16)
        layer.weight = torch.nn.Parameter(held, requires_grad=False)


def _any(value: Any) -> Any:
    return value


def _step(patcher: Any, mode: Mode, counter: CardCounter) -> StepCount:
    """A step of sampling, with whatever wraps it, as ComfyUI's sampler would make it."""
    from comfy.patcher_extension import WrapperExecutor, WrappersMP

    found: list[StepCount] = []

    def sample(_noise: Any, _latent: Any, _sampler: Any, _sigmas: Any, _mask: Any, callback: Any) -> None:
        latent, sigma = torch.empty(2, 4, 128, 128, device=CARD), torch.empty(2, device=CARD)
        text, label = torch.empty(2, 77, 2048, device=CARD), torch.empty(2, 2816, device=CARD)
        for number in range(RUN):
            with counter.step() as step:
                patcher.model.apply_model(latent, sigma, c_crossattn=text, y=label)
                if callback is not None:
                    callback(number, latent, latent, STEPS)
            found.append(step)
        raise _EnoughError

    with _measured(patcher, mode) as model:
        wrappers = model.get_all_wrappers(WrappersMP.OUTER_SAMPLE)
        guider = SimpleNamespace(model_patcher=patcher, conds={})
        executor = WrapperExecutor.new_class_executor(sample, guider, wrappers)
        noise, sigmas = torch.empty(1, 4, 128, 128), torch.empty(STEPS + 1, device=CARD)
        with suppress(_EnoughError):
            executor.execute(noise, noise, None, sigmas, None, None)
    last = found[-1]
    last.peak = max(step.peak for step in found)
    return last


@contextmanager
def _measured(patcher: Any, mode: Mode) -> Iterator[Any]:
    """The MODEL, or a calibrated clone of it."""
    if mode.rows is None:
        yield patcher
        return
    from hswq.hswq_core.calibration.session import CalibrationSession  # type: ignore[import-not-found]
    from hswq.hswq_core.fingerprint import Fingerprint  # type: ignore[import-not-found]
    from hswq.loader.calibrate import calibrated_clone  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        session = CalibrationSession.open(Path(folder) / "session.safetensors", Fingerprint("", ()))
        yield calibrated_clone(patcher, session, mode.rows)


def _backward_pass(patcher: Any, counter: CardCounter) -> StepCount:
    """Of measuring sensitivity for V2: the second random vector of an input, so that it has no forward pass."""
    from hswq.hswq_core.calibration import quantizable_layers  # type: ignore[import-not-found]
    from hswq.hswq_core.formats.v2 import V2  # type: ignore[import-not-found]
    from hswq.hswq_core.rounding.weight import QuantizedWeight  # type: ignore[import-not-found]
    from hswq.hswq_core.sensitivity.gradient import GradientMeter  # type: ignore[import-not-found]
    from hswq.hswq_core.sensitivity.rounding_change import rounding_change  # type: ignore[import-not-found]
    from hswq.loader.compat import (  # type: ignore[import-not-found]
        differentiable_attention,
        differentiable_operations,
        weight_in_use,
    )

    half = torch.float16
    kept = {
        "0": torch.empty(2, 4, 128, 128, dtype=half), "1": torch.empty(2),
        "context": torch.empty(2, 77, 2048, dtype=half), "y": torch.empty(2, 2816, dtype=half),
    }  # fmt: skip
    options = {"transformer_options": differentiable_attention()}
    root = patcher.model.diffusion_model
    meter = GradientMeter(root, [kept], DIFFERENTIABLE, options, weight_in_use, vectors=STEPS)
    layers = dict(quantizable_layers(root))
    rounded = QuantizedWeight(torch.empty(0), torch.ones(1), 0.0, 0.0)
    changes = {name: [rounding_change(rounded, V2.form, is_nearest=True)] for name in layers}
    found: list[StepCount] = []
    passes = counter.steps()

    def after_pass(done: int, _whole: int) -> None:
        found.append(next(passes))
        if done == RUN:
            raise _EnoughError

    with differentiable_operations(), suppress(_EnoughError):
        meter.impacts_of_each(layers, changes, after_pass)
    last = found[-1]
    last.peak = max(step.peak for step in found[1:])  # the first is what led up to the passes
    return last
