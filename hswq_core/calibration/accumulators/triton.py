"""A layer's sums and sampled rows in one launch of a Triton kernel."""

from __future__ import annotations

import math
from functools import partial
from types import ModuleType

import torch

from ...backend import COMPUTED_IN, Operation, register
from ...kernels.layer_params import LaunchParams
from ..conv_patches import ONE_PIXEL, ConvWindow, PatchIndex
from ..positions import PositionSampler
from ..row_sample import RowSample


class TritonSums:
    """The running sums of one layer.

    Args:
        kernel: the module of the kernel.
        input_sums, output_sums: float64 [3, all channels] and [2, layers].
        channel, layer: where in them this layer's begin.
        window: of a convolution.
    """

    def __init__(
        self,
        kernel: ModuleType,
        input_sums: torch.Tensor,
        output_sums: torch.Tensor,
        channel: int,
        layer: int,
        window: ConvWindow | None,
    ) -> None:
        self._kernel = kernel
        self._input_sums, self._output_sums = input_sums, output_sums
        self._channel, self._layer, self._window = channel, layer, window or ONE_PIXEL
        self._calls: dict[bool, _Call] = {}

    def add(self, x: torch.Tensor | None, channel: int, y: torch.Tensor, sample: RowSample | None) -> None:
        """As ``Accumulator.add``."""
        if not y.numel():
            return
        y, measured = y.contiguous(), x is not None
        source = y if x is None else x.contiguous()
        call = self._calls.get(measured)
        if call is None or call.x_shape != source.shape or call.y_shape != y.shape:
            window = self._window
            params = LaunchParams.of(
                source, channel, y, measured=measured,
                window=(window.kernel, window.stride, window.padding, window.dilation),
                input_place=self._channel, input_stride=self._input_sums.shape[1],
                output_place=self._layer, output_stride=self._output_sums.shape[1],
            )  # fmt: skip
            call = self._calls[measured] = _Call(source, y, params)
        count, first, chosen, rows = 0, 0, call.packed, call.no_rows
        if sample is not None:
            count, first, chosen, rows = len(sample.positions), sample.first, sample.positions, sample.rows
        self._kernel.measure(
            call.params, call.packed, source, y, self._input_sums, self._output_sums, chosen, rows, first, count
        )


class _Call:
    """What all calls of the layer with these shapes have in common."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, params: LaunchParams) -> None:
        self.x_shape, self.y_shape = x.shape, y.shape
        self.params = params
        self.packed = torch.tensor(params, device=x.device)
        self.no_rows = torch.empty(1, dtype=torch.float16, device=x.device)


_WINDOW = ConvWindow((3, 3), (2, 1), (1, 1), (1, 1))
# Shapes of input and output, where their channels are, and the window of a convolution; Linear layers have inputs of
# two to four dimensions, convolutions without a window (over one or three dimensions) have no rows.
_CALLS = (
    ((2, 7, 9, 300), (2, 3, 5, 300), 1, _WINDOW),
    ((2, 72, 9, 8), (2, 8, 5, 8), 1, _WINDOW),
    ((2, 70, 72), (2, 70, 11), 2, None),
    ((2, 70, 13), (2, 70, 16), 2, None),
    ((40, 24), (40, 16), 1, None),
    ((2, 5, 6, 24), (2, 5, 6, 16), 3, None),
    ((2, 12, 50), (2, 8, 25), 1, None),
    ((1, 12, 3, 6, 5), (1, 8, 3, 6, 5), 1, None),
)


def _agrees(kernel: ModuleType, device: torch.device) -> bool:
    """Whether the kernel gives torch's results on this device, in every type that models compute in."""
    return all(_agrees_in(kernel, device, dtype) for dtype in COMPUTED_IN)


def _agrees_in(kernel: ModuleType, device: torch.device, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    for number, (input_shape, output_shape, channel, window) in enumerate(_CALLS):
        # Every other call's tensors are parts of larger ones, and begin anywhere; it is one of a layer that follows
        # another, too, whose output alone is summed.
        begin = number % 2
        x, y = (
            torch.randn(begin + math.prod(shape), generator=generator).add_(0.5).to(device, dtype)[begin:].view(shape)
            for shape in (input_shape, output_shape)
        )
        channels, seen = input_shape[channel], y.numel() // y.shape[channel]
        rows = torch.zeros(2, 20, channels * math.prod(window.kernel if window else ()), device=device).half()
        positions = PositionSampler(0).pick(17, seen, device)
        index = window and partial(PatchIndex.of, positions, y.shape[-2:], window, x.shape[-2:])
        # Rows are written from the third on.
        fused, plain = (RowSample(positions, part, 2, index) for part in rows)
        sampled = window is not None or channel == x.dim() - 1
        input_sums = torch.zeros(3, channels + 9, dtype=torch.float64, device=device)
        output_sums = torch.zeros(2, 3, dtype=torch.float64, device=device)
        sums = TritonSums(kernel, input_sums, output_sums, 5, 1, window)
        sums.add(x, channel, y, fused if sampled else None)
        if sampled:
            plain.take(x)
        times = 1 + begin
        if begin:
            sums.add(None, channel, y, None)
        expected_inputs, expected_outputs = torch.zeros_like(input_sums), torch.zeros_like(output_sums)
        wide, over = x.double(), [d for d in range(x.dim()) if d != channel]
        for row, values in enumerate((wide.abs(), wide, wide.square())):
            expected_inputs[row, 5 : 5 + channels] = values.sum(over)
        for row, values in enumerate((y.double(), y.double().square())):
            expected_outputs[row, 1] = values.sum() * times
        pairs = ((input_sums, expected_inputs), (output_sums, expected_outputs), (fused.rows, plain.rows))
        if not all(torch.allclose(found, expected, rtol=1e-4, atol=1e-3) for found, expected in pairs):
            return False
    return True


LAYER_SUMS = register(Operation("calibrating", "layer_sums", _agrees))
