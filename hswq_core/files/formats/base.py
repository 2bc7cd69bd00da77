"""What a format is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Format:
    """How a quantized layer ``L`` is stored. ``L.weight`` is ``float8_e4m3fn`` in all of them.

    Attributes:
        scaled: whether the weight is divided by a scale first.
        per_channel: whether there may be a scale for each output channel.
        channel_scales: whether there is to be one, in what is written.
        dimensions: the weights it can hold: 2 is Linear, 4 is Conv2d.
        side_tensors: what stands beside ``L.weight``, given ``L`` and the scale (float32 [1], or [C_out]).
    """

    name: str
    scaled: bool
    dimensions: frozenset[int]
    per_channel: bool
    side_tensors: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]
    channel_scales: bool = False

    def side_tensors_of(self, layer: str, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """What will stand beside a weight of this shape, with scales of one."""
        return self.side_tensors(layer, torch.ones(shape[0] if self.channel_scales else 1))

    def holds(self, shape: tuple[int, ...], dtype: str, scale: torch.Tensor) -> bool:
        """Whether an FP8 weight that exists already can be stored as it is."""
        return len(shape) in self.dimensions and dtype == "F8_E4M3" and (scale.numel() == 1 or self.per_channel)
