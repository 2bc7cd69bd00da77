"""What the kernel of ``layer_sums.py`` is told of a layer's call, and how many programs it takes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

# Tiles of the input: rows by channels where channels come last, planes by pixels where they come first.
ROWS, CHANNELS = 32, 64
PLANES, PIXELS = 8, 256
OUTPUTS, TAPS = 1024, 512
# How much a program sums: enough that adding up its result is little beside it, and little enough to fill a GPU.
_ROWS_EACH, _PIXELS_EACH, _OUTPUTS_EACH = 128, 8 * PIXELS, 8 * OUTPUTS

Pair = tuple[int, int]


class LaunchParams(NamedTuple):
    """int64 numbers, which the kernel reads from the device in this order.

    Attributes:
        input_programs, output_programs: how many programs sum the input and the output.
        input_share, output_share: how many numbers along the longer side each of them sums.
        input_place, output_place: where the layer's sums begin.
        input_stride, output_stride: how far apart those of |x|, x and x^2 are, and those of y and y^2.
        channels_last: 1 for an input [length, channels], 0 for [planes, length].
        outputs: numbers in the output.
        row: numbers in a sampled row, [channels, kernel_height, kernel_width] of an image; a Linear's is one pixel.
    """

    input_programs: int
    output_programs: int
    input_share: int
    output_share: int
    input_place: int
    input_stride: int
    output_place: int
    output_stride: int
    channels_last: int
    length: int
    channels: int
    planes: int
    outputs: int
    row: int
    output_height: int
    output_width: int
    height: int
    width: int
    kernel_height: int
    kernel_width: int
    stride_down: int
    stride_across: int
    padding_down: int
    padding_across: int
    dilation_down: int
    dilation_across: int

    @staticmethod
    def of(
        x: torch.Tensor,
        channel: int,
        y: torch.Tensor,
        *,
        measured: bool,
        window: tuple[Pair, Pair, Pair, Pair],
        input_place: int,
        input_stride: int,
        output_place: int,
        output_stride: int,
    ) -> LaunchParams:
        """The numbers for one call.

        Args:
            x, channel: the input, and which of its dimensions has the channels.
            y: the output.
            measured: whether the input is summed.
            window: a convolution's kernel, stride, padding and dilation, each (height, width).
        """
        channels, last = x.shape[channel], channel == x.dim() - 1
        length = x.numel() // channels if last else math.prod(x.shape[channel + 1 :])
        planes = 0 if last else x.numel() // length
        share = _ROWS_EACH if last else _PIXELS_EACH
        across = -(-channels // CHANNELS) if last else -(-planes // PLANES)
        size, area = ((1, 1), (1, 1)) if last else (x.shape[-2:], y.shape[-2:])
        kernel, stride, padding, dilation = window
        return LaunchParams(
            input_programs=across * -(-length // share) if measured else 0,
            output_programs=-(-y.numel() // _OUTPUTS_EACH),
            input_share=share,
            output_share=_OUTPUTS_EACH,
            input_place=input_place,
            input_stride=input_stride,
            output_place=output_place,
            output_stride=output_stride,
            channels_last=int(last),
            length=length,
            channels=channels,
            planes=planes,
            outputs=y.numel(),
            row=channels * math.prod(kernel),
            output_height=area[0],
            output_width=area[1],
            height=size[0],
            width=size[1],
            kernel_height=kernel[0],
            kernel_width=kernel[1],
            stride_down=stride[0],
            stride_across=stride[1],
            padding_down=padding[0],
            padding_across=padding[1],
            dilation_down=dilation[0],
            dilation_across=dilation[1],
        )

    def programs(self, sampled_rows: int) -> int:
        """How many programs the launch has."""
        return self.input_programs + self.output_programs + sampled_rows * -(-self.row // TAPS)
