"""The weighted histogram of a layer's magnitudes, exact for 16-bit weights.

FP16 and BF16 have at most 32,768 distinct magnitudes, and ``bits & 0x7fff`` numbers them, so one
``bincount`` gives the exact distribution: no bin edges, nothing lost. FP32 weights are rounded to BF16
or FP16 first, whichever holds their range; their error is then measured to 8 or 11 bits, far below
e4m3's 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_MAGNITUDES = 1 << 15


@dataclass(frozen=True)
class Histogram:
    """Distinct magnitudes [N] (float32, ascending) and the total importance of each [N] (float64)."""

    values: torch.Tensor
    weights: torch.Tensor

    @property
    def amax(self) -> float:
        """The largest magnitude; 0 for an empty or all-zero layer."""
        return float(self.values[-1]) if self.values.numel() else 0.0


def histogram(weight: torch.Tensor, importance: torch.Tensor | None = None) -> Histogram:
    """The distribution of ``|weight|``, each element counted with its input channel's importance.

    Args:
        weight: [C_out, C_in] or [C_out, C_in, kH, kW], finite.
        importance: [C_in], non-negative; ``None`` (or all zeros, a layer whose input was always
            zero) counts every element once.
    """
    folded = weight if weight.dtype in (torch.float16, torch.bfloat16) else _fold(weight)
    magnitude = folded.contiguous().view(torch.int16).to(torch.int32).bitwise_and_(0x7FFF)
    if importance is None or not importance.any():
        counts = torch.bincount(magnitude.flatten(), minlength=_MAGNITUDES).double()
    else:
        channels = importance.float().view(1, -1, *[1] * (weight.dim() - 2)).expand(weight.shape)
        counts = torch.bincount(magnitude.flatten(), weights=channels.reshape(-1), minlength=_MAGNITUDES).double()
    present = counts.nonzero().flatten()
    return Histogram(present.to(torch.int16).view(folded.dtype).float(), counts[present])


def _fold(weight: torch.Tensor) -> torch.Tensor:
    """A 32-bit weight in the 16-bit type that loses least: FP16 unless it would overflow."""
    dtype = torch.float16 if weight.abs().amax() <= torch.finfo(torch.float16).max else torch.bfloat16
    return weight.to(dtype)
