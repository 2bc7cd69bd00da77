"""Rows to take from one call of a layer: input rows of a Linear, or patches of a convolution's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .conv_patches import PatchIndex

_LARGEST = torch.finfo(torch.float16).max


class RowSample(NamedTuple):
    """What ``row_sampling`` has decided for one call.

    Attributes:
        positions: int64 [N], of the output positions whose rows are taken.
        rows: float16 [R, K], where they go: from the row ``first`` on.
        patch_index: finds the patches of a convolution; ``None`` for Linear.
        target: rows in RAM that are a copy of ``rows`` in the end, where ``rows`` are on another device.
    """

    positions: torch.Tensor
    rows: torch.Tensor
    first: int = 0
    patch_index: Callable[[], PatchIndex] | None = None
    target: torch.Tensor | None = None

    def take(self, x: torch.Tensor) -> None:
        """Take them from the layer's input, [..., C_in] or [B, C_in, H, W]."""
        if self.patch_index is None:
            found = x.reshape(-1, x.shape[-1]).index_select(0, self.positions)
        else:
            found = self.patch_index().patches(x)
        if found.dtype != torch.float16:
            found = found.clamp_(-_LARGEST, _LARGEST)
        self.rows[self.first : self.first + len(self.positions)].copy_(found)
