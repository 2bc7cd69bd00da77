"""What is done with one layer or tensor, and which of those that are not quantized come from the original."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import CheckpointError
from ...files.dtypes import is_float
from ...formats.stored_layer import FP8_DTYPES
from ...grids import E4M3
from ..contents import Contents
from ..kinds import Kind
from ..output_error import energy
from .layer import How
from .original import Original

_ROUNDED = 1e-5
"""The relative squared error of rounding to BF16 is below it, that of rounding to FP8 far above."""
NOISE = 0.5
_FAR = 1e100
"""No number of times that anything can be told by."""


@dataclass(frozen=True)
class Mend:
    """What is done with one layer, or with a tensor of none.

    Attributes:
        name: of the layer in the file, or of the tensor.
        before, after: relative squared errors of its weights; ``before`` is ``None`` where there were no numbers.
        kind: of the layer then; ``None`` for what is not quantized.
        layout: the type and the shape of each of its tensors.
    """

    name: str
    how: How
    before: float | None
    after: float
    kind: Kind | None
    layout: dict[str, tuple[str, tuple[int, ...]]]


def lost_tensor(contents: Contents, original: Original, key: str) -> Mend | None:
    """What comes of a tensor that is not quantized; ``None`` where it is the original's, but for rounding."""
    there = original.key(key)
    if there is None:
        return None
    info, said = contents.tensors.get(key), original.source.tensors[there]
    restored = {key: (said.dtype, said.shape)}
    if info is None or info.shape != said.shape:
        return Mend(key, "restored from the original", None, 0.0, None, restored)
    if not is_float(said.dtype) or not (is_float(info.dtype) or info.dtype in FP8_DTYPES):
        return None
    value, weight = contents.read(key).float(), original.source.tensor(there).float()
    is_whole = bool(value.isfinite().all())
    if not bool(weight.isfinite().all()):
        if (is_whole and info.dtype not in FP8_DTYPES) or torch.equal(value.nan_to_num(), weight.nan_to_num()):
            return None  # it cannot be told what it should be
        raise CheckpointError(
            f"the tensor {there} of the original holds NaN or infinity itself", where=original.source.path,
            remedy="Give an original that is whole",
        )  # fmt: skip
    if not is_whole:
        return Mend(key, "restored from the original", None, 0.0, None, restored)
    error = energy(value - weight) / max(energy(weight), 1e-300)
    # Any other difference was meant: a LoRA, or smoothing, which moves what is hard to round into the layer before.
    lost = info.dtype in FP8_DTYPES or error > NOISE or (error > _ROUNDED and _is_fp8(value))
    # Of an original of zeros anything is infinitely far away, which JSON has no number for.
    before = error if error < _FAR else None
    return Mend(key, "restored from the original", before, 0.0, None, restored) if lost else None


def _is_fp8(value: torch.Tensor) -> bool:
    """Whether it holds values of FP8 alone."""
    return torch.equal(E4M3.quantize(value).float(), value.float())
