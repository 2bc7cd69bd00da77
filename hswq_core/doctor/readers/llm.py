"""Layers of language models, as text encoders have them: GPTQ, AutoAWQ, and compressed-tensors. Named, not decoded."""

from __future__ import annotations

from collections.abc import Iterator

from ..kinds import GPTQ, unknown
from ..layer import QuantizedLayer
from .stored import StoredTensors

_SIDE = (".qzeros", ".scales", ".g_idx")
_PACKED = ".weight_packed"
_PACKED_SIDE = (".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx", ".weight_global_scale")


def read(tensors: StoredTensors) -> Iterator[QuantizedLayer]:
    """Layers with ``qweight`` and ``scales``, or with ``weight_packed``."""
    for name in tensors.matrices(".qweight"):
        scales, info = tensors.left.get(f"{name}.scales"), tensors.left[f"{name}.qweight"]
        if scales is None or len(scales.shape) != 2:
            continue
        side = tensors.beside(name, *_SIDE)
        columns = 8 * info.numel // max(1, scales.shape[1])  # eight codes to an int32
        yield QuantizedLayer(
            name, GPTQ, (scales.shape[1], columns), f"{name}.qweight", side, tensors.nbytes(f"{name}.qweight", *side),
            str(columns // max(1, scales.shape[0])),
        )  # fmt: skip
    for name in tensors.matrices(_PACKED):
        side, info = tensors.beside(name, *_PACKED_SIDE), tensors.left[name + _PACKED]
        yield QuantizedLayer(
            name, unknown("compressed-tensors"), info.shape, name + _PACKED, side,
            tensors.nbytes(name + _PACKED, *side), "unknown",
        )  # fmt: skip
