"""SVDQuant layers as Nunchaku stores them: W4A4 codes beside a branch of low rank in 16 bits, and AWQ's W4A16.

``L.qweight`` and ``L.wscales`` are in the order in which Nunchaku's kernels read them, so nothing else decodes them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..kinds import NUNCHAKU_AWQ, SVDQUANT_INT4, SVDQUANT_NVFP4
from ..layer import QuantizedLayer
from .stored import StoredTensors

_CODES, _SCALES, _ZEROS = ".qweight", ".wscales", ".wzeros"
_SIDE = (
    _SCALES, _ZEROS, ".wcscales", ".wtscale", ".proj_down", ".proj_up", ".lora_down", ".lora_up",
    ".smooth", ".smooth_orig", ".smooth_factor", ".smooth_factor_orig",
)  # fmt: skip


def read(tensors: StoredTensors) -> Iterator[QuantizedLayer]:
    """Layers with ``qweight`` and ``wscales``."""
    for name in tensors.matrices(_CODES):
        if name + _SCALES not in tensors.left:
            continue
        side, scales = tensors.beside(name, *_SIDE), tensors.left[name + _SCALES]
        stored = tensors.left[name + _CODES].shape
        four_rows = name + _ZEROS in tensors.left  # AWQ: four rows in one of int32
        in_floats = scales.dtype in ("F8_E4M3", "U8")
        kind = NUNCHAKU_AWQ if four_rows else SVDQUANT_NVFP4 if in_floats else SVDQUANT_INT4
        shape = (4 * stored[0], 2 * stored[1]) if four_rows else (stored[0], 2 * stored[1])
        yield QuantizedLayer(
            name, kind, shape, name + _CODES, side, tensors.nbytes(name + _CODES, *side),
            str(shape[1] // max(1, scales.shape[0])),
        )  # fmt: skip
