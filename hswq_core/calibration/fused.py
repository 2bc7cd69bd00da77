"""A layer's sums and rows in one launch of a Triton kernel."""

from __future__ import annotations

import math

import torch

from ..kernels.launch import is_aligned
from ..kernels.layer_sums import (
    CHANNELS,
    GEOMETRY,
    OUTPUTS,
    PIXELS,
    PLANES,
    TAPS,
    measure_layer,
)
from .rows import Draw, Window

# How much a program sums: enough that adding up its result is little beside it, and little enough to fill a GPU.
_ROWS_EACH, _PIXELS_EACH, _OUTPUTS_EACH = 128, 8 * PIXELS, 8 * OUTPUTS
_PIXEL = Window((1, 1), (1, 1), (0, 0), (1, 1))


class FusedSums:
    """The places of one layer.

    Args:
        input_sums, output_sums: float64 [3, all channels] and [2, layers].
        place, row: where in them the layer's begin.
        window: of a convolution.
    """

    def __init__(
        self, input_sums: torch.Tensor, output_sums: torch.Tensor, place: int, row: int, window: Window | None
    ) -> None:
        self._input_sums, self._output_sums = input_sums, output_sums
        self._place, self._row, self._window = place, row, window or _PIXEL
        self._calls: dict[bool, _Call] = {}

    def add(self, x: torch.Tensor | None, channel: int, y: torch.Tensor, draw: Draw | None) -> None:
        """As ``LayerSums.add``."""
        if not y.numel():
            return
        y = y.contiguous()
        x, measured = (y, False) if x is None else (x.contiguous(), True)
        call = self._calls.get(measured)
        if call is None or call.x_shape != x.shape or call.y_shape != y.shape:
            call = self._calls[measured] = self._call(x, channel, y, measured)
        programs, count, first, chosen, rows = call.programs, 0, 0, call.geometry, call.no_rows
        if draw is not None:
            count, first, chosen, rows = draw.size, draw.first, draw.chosen(), draw.rows
            programs += count * call.row_programs
        kind = (x.dtype, y.dtype, x.device, is_aligned(x, y))
        measure_layer.launch(
            programs, kind, x, y, call.geometry, self._input_sums, self._output_sums, chosen, rows, first, count
        )

    def _call(self, x: torch.Tensor, channel: int, y: torch.Tensor, measured: bool) -> _Call:
        channels, last = x.shape[channel], channel == x.dim() - 1
        length = x.numel() // channels if last else math.prod(x.shape[channel + 1 :])
        planes = 0 if last else x.numel() // length
        share = _ROWS_EACH if last else _PIXELS_EACH
        across = -(-channels // CHANNELS) if last else -(-planes // PLANES)
        input_programs = across * -(-length // share) if measured else 0
        output_programs = -(-y.numel() // _OUTPUTS_EACH)
        size, area = ((1, 1), (1, 1)) if last else (tuple(x.shape[-2:]), tuple(y.shape[-2:]))
        window = self._window
        row = channels * math.prod(window.kernel)
        geometry = (
            *(input_programs, output_programs, share, _OUTPUTS_EACH),
            *(self._place, self._input_sums.shape[1], self._row, self._output_sums.shape[1]),
            *(int(last), length, channels, planes, y.numel()),
            *(row, *area, *size, *window.kernel, *window.stride, *window.padding, *window.dilation),
        )
        assert len(geometry) == len(GEOMETRY)
        return _Call(x, y, geometry, input_programs + output_programs, -(-row // TAPS))


class _Call:
    """What does not change from one call of the layer to the next of the same shapes."""

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        geometry: tuple[int, ...],
        programs: int,
        row_programs: int,
    ) -> None:
        self.x_shape, self.y_shape = x.shape, y.shape
        self.geometry = torch.tensor(geometry, device=x.device)
        self.no_rows = torch.empty(1, dtype=torch.float16, device=x.device)
        self.programs, self.row_programs = programs, row_programs
