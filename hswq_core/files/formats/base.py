"""What a format is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...grids import E4M3, Grid, Scaling


@dataclass(frozen=True)
class Format:
    """How a quantized layer ``L`` is stored.

    Attributes:
        scaling: whether codes are multiplied by a scale, and for what each scale is.
        dimensions: of the weights that it can hold: 2 is Linear, 3 to 5 are convolutions.
        per_channel: whether a reader of the format takes a scale for each output channel.
        side_tensors: what stands beside ``L.weight``, given ``L`` and the scale (float32 [1], or [C_out]).
        grid: what ``L.weight`` is rounded to.
        rotation: what stands beside ``L.weight`` where columns may be rotated, given ``L`` and the group, or 1; of one
            size, whatever the group. ``None`` in formats without rotation.
        header: what the header says of the quantized layers beside the metadata of every format, given the names of
            those that are Linear.
    """

    name: str
    scaling: Scaling
    dimensions: frozenset[int]
    per_channel: bool
    side_tensors: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]
    grid: Grid = E4M3
    rotation: Callable[[str, int], dict[str, torch.Tensor]] | None = None
    header: Callable[[Sequence[str]], dict[str, str]] = lambda _layers: {}

    def side_tensors_of(self, layer: str, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """What will stand beside a weight of this shape, with scales of one."""
        return self.beside(layer, torch.ones(shape[0] if self.scaling == "channel" else 1))

    def beside(self, layer: str, scale: torch.Tensor, group: int = 1) -> dict[str, torch.Tensor]:
        """What stands beside a weight with this scale, its columns rotated in groups of so many."""
        found = self.side_tensors(layer, scale)
        return found if self.rotation is None else found | self.rotation(layer, group)

    def holds(self, shape: tuple[int, ...], dtype: str, scale: torch.Tensor) -> bool:
        """Whether a weight that is quantized already can be stored as it is."""
        return (
            len(shape) in self.dimensions and dtype == self.grid.file_dtype and (scale.numel() == 1 or self.per_channel)
        )
