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
        dimensions: the weights it can hold: 2 is Linear, 4 is Conv2d.
        side_tensors: what stands beside ``L.weight``, given ``L`` and the scale (float32 [1]).
    """

    name: str
    scaled: bool
    dimensions: frozenset[int]
    per_channel: bool
    side_tensors: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]

    def holds(self, shape: tuple[int, ...], dtype: str, scale: torch.Tensor) -> bool:
        """Whether an FP8 weight that exists already can be stored as it is."""
        return len(shape) in self.dimensions and dtype == "F8_E4M3" and (scale.numel() == 1 or self.per_channel)
