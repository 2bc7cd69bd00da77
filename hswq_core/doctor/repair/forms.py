"""The forms that a damaged layer can have again, and its scale by least squares."""

from __future__ import annotations

from collections import Counter

import torch

from ...formats import COMFY_INT8, COMFY_MIXED, FORMATS, MIXED, Form
from ...formats.stored_layer import FACTOR, SCALE_SUFFIXES
from ...grids import E4M3, Scaling
from ...grids.block_scales import BLOCK
from ...grids.group_scales import GROUP
from ...rounding.weight import quantize_weight
from .. import kinds
from ..contents import Contents
from ..kinds import Kind
from ..layer import CHANNEL, QuantizedLayer
from ..readers.eight_bits import MARK

_FP8_SUFFIXES = {
    kinds.V2: ".scale", kinds.SCALED_FP8: ".scale_weight", kinds.WEIGHT_SCALE_FP8: ".weight_scale",
    kinds.COMFY_FP8: ".weight_scale",
}  # fmt: skip
_OTHERS: dict[Kind, Form] = {
    kinds.FP8: FORMATS["v1"].form,
    kinds.INT8: FORMATS["int8"].form,
    kinds.INT8_TENSORWISE: COMFY_INT8.form,
    kinds.NVFP4: COMFY_MIXED.menu[0],
    **{kinds.HSWQ_PACKED[f"hswq_{form.name}"]: form for form in MIXED.menu if form.bits < 8},
}
_KIND_OF_MODE = {"v2": kinds.V2, "comfy": kinds.COMFY_FP8}
_SMALLEST_HALF, _LARGEST_HALF = 2.0**-24, 65504.0


def forms_of(layer: QuantizedLayer, kind: Kind) -> list[Form]:
    """The forms of a kind, that which the layer most likely has first; empty for kinds that nothing here writes."""
    if kind not in _FP8_SUFFIXES:
        return [_OTHERS[kind]] if kind in _OTHERS else []
    if kind == kinds.COMFY_FP8 and layer.is_convolution:
        return []
    there = (suffix for suffix in SCALE_SUFFIXES if layer.name + suffix in layer.side)
    suffix = next(there, _FP8_SUFFIXES[kind])
    order: tuple[Scaling, ...] = ("channel", "tensor") if layer.group == CHANNEL else ("tensor", "channel")
    return [_scaled(suffix, scaling, described=kind == kinds.COMFY_FP8) for scaling in order]


def _scaled(suffix: str, scaling: Scaling, *, described: bool) -> Form:
    def side_tensors(layer: str, scale: torch.Tensor, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        own = {layer + suffix: scale.reshape(()) if scaling == "tensor" and suffix != ".scale" else scale}
        return FORMATS["comfy"].form.side_tensors(layer, scale[:1], shape) | own if described else own

    return Form("v2", scaling=scaling, side_tensors=side_tensors, grid=E4M3)


def kind_of_scaled(contents: Contents) -> Kind | None:
    """How FP8 layers with scales are stored in this file: as its header says, its other layers are, or its mark means.

    ``None`` where nothing says that layers have scales.
    """
    mode = contents.metadata.get("hswq.mode", "")
    if mode in FORMATS:
        return _KIND_OF_MODE.get(mode)
    found = Counter(layer.kind for layer in contents.layers.values() if layer.kind in _FP8_SUFFIXES)
    if found:
        return found.most_common(1)[0][0]
    return kinds.SCALED_FP8 if any(key.endswith(MARK) for key in contents.tensors) else None


def rescaled(form: Form, layer: QuantizedLayer, stored: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """What stands beside codes with the scales that bring them nearest to a weight.

    Args:
        stored: the codes as the file has them.
        weight: [C_out, C_in, ...], rotated as the codes are, float32.
    """
    codes = form.decode(stored, layer.shape).float()
    size = {"tensor": 0, "group": GROUP, "block": BLOCK}.get(form.scaling)
    scale = _least_squares(codes.flatten(1), weight.flatten(1), size)
    scale = scale.clamp(_SMALLEST_HALF, _LARGEST_HALF).half() if form.scaling == "group" else scale
    return form.side_tensors_for(layer.name, scale, layer.shape, layer.rotation)


def _least_squares(codes: torch.Tensor, weight: torch.Tensor, size: int | None) -> torch.Tensor:
    """The scales s that minimize |W - s C|^2: <C, W> / <C, C>. Where all codes are zero it is as large as the others.

    Args:
        codes, weight: [C_out, K], float32.
        size: how many columns share a scale; 0 for all of the weight, ``None`` for all of a row.

    Returns: float32 [1], [C_out], or [C_out, groups].
    """
    if size == 0:
        codes, weight = codes.reshape(1, -1), weight.reshape(1, -1)
    if size:
        codes, weight = (torch.nn.functional.pad(x, (0, -x.shape[1] % size)).unflatten(1, (-1, size))
                         for x in (codes, weight))  # fmt: skip
    products = (codes * weight).sum(-1, dtype=torch.float64)
    squares = codes.square().sum(-1, dtype=torch.float64)
    known = squares > 0
    scale = products / squares
    scale[~known] = scale[known].mean() if bool(known.any()) else 1.0
    # A scale of codes that have nothing to do with the weight may be negative; no format has these.
    return scale.float().clamp(min=torch.finfo(torch.float32).tiny)


def quantized_again(form: Form, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes as a file has them, and their scales, by rounding a weight to nearest."""
    found = quantize_weight(weight, grid=form.grid, scaling=form.scaling)
    return form.encode(found.codes), found.scale


def own_error(form: Form, weight: torch.Tensor, energy: float) -> float:
    """The relative squared error that rounding a weight to nearest has in a form."""
    return quantize_weight(weight, grid=form.grid, scaling=form.scaling).error / max(energy, 1e-300)


def is_scale(key: str, layer: str) -> bool:
    """Whether a tensor beside a layer is what codes are multiplied with."""
    return key.removeprefix(layer) in (*SCALE_SUFFIXES, FACTOR)
