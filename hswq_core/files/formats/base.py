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
        dimensions: the weights it can hold: 2 is Linear, 4 is Conv2d.
        side_tensors: what stands beside ``L.weight``, given ``L`` and the scale (float32 [1]).
    """

    name: str
    scaled: bool
    dimensions: frozenset[int]
    side_tensors: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]
