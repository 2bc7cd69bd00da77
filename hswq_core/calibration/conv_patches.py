"""What a convolution multiplies its weights with: patches of its input, ordered as a flattened weight is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ConvWindow:
    """The window of a convolution with zero padding: (height, width) pairs."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @staticmethod
    def of(module: Any) -> ConvWindow | None:
        """The window of a Conv2d; ``None`` where its patches are unknown: other padding than of zeros, or groups."""
        if module.weight.dim() != 4 or getattr(module, "groups", 1) > 1:
            return None
        if isinstance(module.padding, str) or getattr(module, "padding_mode", "zeros") != "zeros":
            return None
        return ConvWindow(
            tuple(module.kernel_size), tuple(module.stride), tuple(module.padding), tuple(module.dilation)
        )


ONE_PIXEL = ConvWindow((1, 1), (1, 1), (0, 0), (1, 1))
"""The window of a Linear layer: one pixel."""


@dataclass(frozen=True)
class PatchIndex:
    """Indices into [B, H, W] that give patches [N, kH, kW], and which of them are inside the image."""

    batch: torch.Tensor
    down: torch.Tensor
    across: torch.Tensor
    inside: torch.Tensor | None

    @staticmethod
    def of(positions: torch.Tensor, area: tuple[int, ...], window: ConvWindow, size: tuple[int, ...]) -> PatchIndex:
        """Where the window reads for some output positions.

        Args:
            positions: int64 [N], numbered over [B, height, width] of the output.
            area, size: height and width of the output and of the input.
        """
        height, width = area
        batch = positions // (height * width)
        corners = (positions // width % height, positions % width)
        if window.kernel == (1, 1) and window.padding == (0, 0):
            down, across = (corner * stride for corner, stride in zip(corners, window.stride, strict=True))
            return PatchIndex(batch, down, across, None)
        inside, index = None, []
        for axis, corner in enumerate(corners):
            taps = torch.arange(window.kernel[axis], device=positions.device) * window.dilation[axis]
            at = (corner * window.stride[axis] - window.padding[axis])[:, None] + taps
            at = at[:, :, None] if axis == 0 else at[:, None, :]
            clamped = at.clamp(0, size[axis] - 1)
            within = at == clamped
            inside = within if inside is None else inside & within
            index.append(clamped)
        assert inside is not None
        return PatchIndex(batch[:, None, None], index[0], index[1], inside[..., None])

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        """The patches of an input [B, C, H, W] or [C, H, W]: [N, C * kH * kW]."""
        x = x if x.dim() == 4 else x[None]
        # [N, kH, kW, C_in], or [N, C_in] for a window of one pixel.
        found = x.movedim(1, -1)[self.batch, self.down, self.across]
        if self.inside is None:
            return found
        # Zero where the window reaches beyond the image.
        return (found * self.inside).movedim(-1, 1).flatten(1)
