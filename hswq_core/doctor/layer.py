"""A quantized layer of any kind, as a reader has found it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .kinds import Kind

TENSOR, CHANNEL, NO_SCALE = "tensor", "channel", "none"
"""What has a scale of its own, where it is not a group of so many weights."""


def granularity(scale: tuple[int, ...], rows: int, otherwise: str) -> str:
    """What has a scale of its own. Args: scale: the shape of all of them. otherwise: what it is where it is neither."""
    sizes = tuple(size for size in scale if size != 1)
    return TENSOR if not sizes else CHANNEL if sizes == (rows,) else otherwise


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without the ones at its end: a Linear layer may be stored as a convolution of 1 x 1, and the other way
    round."""
    return tuple(shape) if not shape or shape[-1] != 1 else without_ones(shape[:-1])


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer whose weight is codes.

    Attributes:
        name: in the file, without ``.weight``.
        shape: of the weight that the codes stand for.
        codes: the name of their tensor.
        side: the names of those beside it that mean nothing without it.
        nbytes: of all of these.
        group: how many weights share a scale, as a number, or ``TENSOR``, ``CHANNEL``, ``NO_SCALE``.
        decode: reads the weight, float32 in ``shape``, while the file is open; ``None`` where nobody but its own
            kernels can. Errors: CheckpointError where parts are missing or do not fit.
        scale: reads and checks what codes are multiplied with, float32 of any shape; ``None`` where there is nothing.
            Errors: as ``decode``.
        largest_code: of the grid, to tell by scales how large weights are; 0 where they do not tell.
        plain_codes: whether an element of the codes' tensor is a code.
        exact: whether the file tells readers not to round the layer's inputs.
        rotation: how many columns are rotated together; 1 is none.
        input_scale: whether there is a scale for the layer's inputs.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    codes: str
    side: tuple[str, ...]
    nbytes: int
    group: str
    decode: Callable[[], torch.Tensor] | None = None
    scale: Callable[[], torch.Tensor] | None = None
    largest_code: float = 0.0
    plain_codes: bool = False
    exact: bool = False
    rotation: int = 1
    input_scale: bool = False

    @property
    def numel(self) -> int:
        """Weights."""
        return math.prod(self.shape)

    @property
    def is_convolution(self) -> bool:
        return len(self.shape) > 2
