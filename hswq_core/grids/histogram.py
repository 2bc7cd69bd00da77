"""The weighted histogram of a layer's magnitudes, exact for 16-bit weights.

FP16 and BF16 have at most 32,768 distinct magnitudes, and ``bits & 0x7fff`` numbers them, so one
``bincount`` gives the exact distribution: no bin edges, nothing lost. FP32 weights are rounded to BF16
or FP16 first, whichever holds their range; their error is then measured to 8 or 11 bits, far finer
than any 8-bit grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..devices import holds
from .grid import SIXTEEN_BITS, bit_patterns

_MAGNITUDES = 1 << 15
# Importance is counted in 2^-24 of its maximum: a layer of 500 million weights still sums up below 2^53.
_RESOLUTION = 1 << 24
_BLOCK = 1 << 19


@dataclass(frozen=True)
class Histogram:
    """Distinct magnitudes [N] (float32, ascending) and the total importance of each [N] (float64)."""

    values: torch.Tensor
    weights: torch.Tensor

    @property
    def amax(self) -> float:
        """The largest magnitude; 0 for an empty or all-zero layer."""
        return float(self.values[-1]) if self.values.numel() else 0.0

    @property
    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite: those have the largest bit patterns, so they come last."""
        return not self.values.numel() or bool(self.values[-1].isfinite())

    @property
    def mean_square(self) -> float:
        """The weighted mean of the squared weights."""
        return float(self.values.double().square() @ self.weights / self.weights.sum())


def histogram(weight: torch.Tensor, importance: torch.Tensor | None = None) -> Histogram:
    """The distribution of ``|weight|``, each element counted with its input channel's importance.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW].
        importance: [C_in], non-negative; ``None`` (or all zeros, a layer whose input was always
            zero) counts every element once.

    Returns:
        The histogram, on the CPU.
    """
    if not holds(torch.float64, weight.device):
        weight = weight.cpu()
    folded = weight if weight.dtype in SIXTEEN_BITS else _fold(weight)
    if importance is None or not importance.any():
        counts = _count(folded, None)
        present = counts.nonzero().flatten()
    else:
        # Whole numbers add up exactly in float64, so the result does not depend on the order of the sums.
        unit = float(importance.max()) / _RESOLUTION
        steps = (importance.to(weight.device, torch.float64) / unit).round_()
        counts = _count(folded, steps) * unit
        # Weights of a channel that is always zero do not count, but their range does.
        present = (counts if bool(steps.all()) else _count(folded, None)).nonzero().flatten()
    return Histogram(present.to(torch.int16).view(folded.dtype).float(), counts[present])


def _count(weight: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
    """The sum of importance by magnitude, float64 [32,768], on the CPU; of ones without importance."""
    total = torch.zeros(_MAGNITUDES, dtype=torch.float64, device=weight.device)
    if weight.numel() == 0:
        return total.cpu()
    # In blocks of rows that stay in the cache; every row has the same importances, so they are laid out once.
    rows = max(1, _BLOCK // weight[0].numel())
    weights = None
    if importance is not None:
        shape = (rows, *weight.shape[1:])
        weights = importance.view(1, -1, *[1] * (weight.dim() - 2)).expand(shape).flatten()
    for block in weight.split(rows):
        magnitude = bit_patterns(block).bitwise_and_(_MAGNITUDES - 1)
        chosen = None if weights is None else weights[: magnitude.numel()]
        total += torch.bincount(magnitude, weights=chosen, minlength=_MAGNITUDES)
    return total.cpu()


def _fold(weight: torch.Tensor) -> torch.Tensor:
    """A 32-bit weight in the 16-bit type that loses least: FP16 unless it would overflow there."""
    fits = weight.numel() == 0 or bool(weight.abs().amax() <= torch.finfo(torch.float16).max)
    return weight.to(torch.float16 if fits else torch.bfloat16)
