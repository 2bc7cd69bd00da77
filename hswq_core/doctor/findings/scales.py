"""Whether every scale is there, of a shape that fits, and a positive number; and whether nothing is left of others."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...errors import CheckpointError
from ...files.dtypes import is_float
from ...files.layers import WEIGHT
from ...formats.stored_layer import DESCRIPTION, LAYER_DIMENSIONS, SCALE_SUFFIXES
from ..contents import Contents
from ..kinds import (
    NVFP4,
    SCALED_FP8,
)
from ..layer import QuantizedLayer
from ..readers.described import REQUIRED
from ..readers.eight_bits import MARK
from .finding import AGAIN, Finding, together

_SCALES = ("scale", "scale_weight", "absmax", "SCB", "_scale", "weight_scale_2", "s_channel", "s_rel")


def check_scales(contents: Contents) -> Iterator[Finding]:
    """Reads every scale."""
    found: dict[str, list[str]] = {}
    errors: dict[str, str] = {}
    for layer in contents.layers.values():
        if layer.scale is None:
            continue
        try:
            layer.scale()
        except CheckpointError as error:
            name = _problem(contents, layer)
            found.setdefault(name, []).append(layer.name)
            errors.setdefault(name, error.what)
    for name, layers in found.items():
        yield Finding(name, True, errors[name], AGAIN, tuple(layers))


def _problem(contents: Contents, layer: QuantizedLayer) -> str:
    """The name of what is wrong with a scale that cannot be read."""
    stored = [key for key in layer.side if key.endswith(_SCALES) and not key.endswith((".input_scale", "output_scale"))]
    if layer.rotation > 1 and (len(layer.shape) != 2 or layer.shape[1] % layer.rotation):
        return "rotation"
    required = [layer.name + part for part in REQUIRED.get(layer.kind.name, ())]
    if not stored or any(key not in contents.tensors for key in required):
        return "scale-missing"
    assert contents.source is not None
    for key in stored:
        values = contents.source.tensor_or_bytes(key)
        values = values.view(torch.float8_e4m3fn) if values.dtype == torch.uint8 and layer.kind == NVFP4 else values
        if not values.is_floating_point():
            continue
        if not bool(values.float().isfinite().all()):
            return "scale-not-finite"
        is_block = key.endswith("weight_scale") and layer.kind == NVFP4  # which is filled up with zeros
        if bool((values.float() < 0).any()) or (not is_block and bool((values.float() == 0).any())):
            return "scale-not-positive"
    return "scale-shape"


def check_beside(contents: Contents) -> Iterator[Finding]:
    """By the header alone: marks, scales and descriptions that belong to nothing, and kinds that are not known."""
    yield from together(
        "unknown-format", "layers are quantized in a way that is not known",
        "Open it with what its publisher names",
        (f"{name}: {layer.kind.label}" for name, layer in contents.layers.items() if layer.kind.family == "unknown"),
        is_error=False,
    )  # fmt: skip
    scaled = [name for name, layer in contents.layers.items() if layer.kind == SCALED_FP8]
    lone = [f"{mark}{MARK}" for mark in contents.marks if not any(name.startswith(mark) for name in scaled)]
    yield from together(
        "marker-without-scales", "the tensor scaled_fp8 says that layers have scales, and none has one", AGAIN, lone
    )
    yield from together(
        "scales-without-marker", "scales of scaled_fp8 stand here without the tensor of that name, by which ComfyUI "
        "knows them: it will draw noise", "Open it with HSWQ Loader, or convert it with 'hswq convert'",
        [name for name in scaled if not name.startswith(contents.marks)], is_error=False,
    )  # fmt: skip
    yield from together(
        "scale-orphan", "scales belong to no quantized weight: it was expanded, or merged away", AGAIN,
        [key for key in contents.tensors if key not in contents.taken and _is_orphan(contents, key)],
    )  # fmt: skip


def _is_orphan(contents: Contents, key: str) -> bool:
    suffix = next((s for s in (*sorted(SCALE_SUFFIXES, key=len, reverse=True), DESCRIPTION) if key.endswith(s)), None)
    if suffix is None:
        return False
    beside = contents.tensors.get(key.removesuffix(suffix) + WEIGHT)
    if beside is None:
        # What HSWQ Loader refuses; a norm has a parameter named .scale, and no weight.
        is_refused = contents.container == "safetensors" and contents.part_of(key) == "diffusion model"
        return is_refused and suffix in SCALE_SUFFIXES and suffix != ".scale"
    fits = contents.tensors[key].numel in (1, beside.shape[0] if beside.shape else 0)
    return is_float(beside.dtype) and len(beside.shape) in LAYER_DIMENSIONS and (suffix != ".scale" or fits)
