"""All that calibration measures in one call of a layer, in one launch: input sums, output sums and sampled rows.

Every tensor is read once. A program sums its part in float32 and adds it to the layer's places in float64, so that the
order in which programs end does not show in the result.
"""

# Triton takes annotations for types of its own.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import triton
import triton.language as tl

from .launch import Kernel

# Tiles of the input: rows by channels where channels come last, planes by pixels where they come first.
ROWS, CHANNELS = 32, 64
PLANES, PIXELS = 8, 256
OUTPUTS, TAPS = 1024, 512
_ROWS, _CHANNELS, _PLANES, _PIXELS = (tl.constexpr(n) for n in (ROWS, CHANNELS, PLANES, PIXELS))
_OUTPUTS, _TAPS = tl.constexpr(OUTPUTS), tl.constexpr(TAPS)
_ONE, _EIGHT = tl.constexpr(1), tl.constexpr(8)
_LARGEST_FP16 = tl.constexpr(65504.0)

GEOMETRY = (
    # How many programs sum the input and the output, and how many numbers along the longer side each of them does.
    "input_programs", "output_programs", "input_share", "output_share",
    # Where the layer's sums begin, and how far apart those of |x|, x and x^2 are, and those of y and y^2.
    "input_place", "input_stride", "output_place", "output_stride",
    # The input as [length, channels] where ``channels_last``, else as [planes, length].
    "channels_last", "length", "channels", "planes", "outputs",
    # A sampled row is [channels, kernel_height, kernel_width] of a picture; a Linear's is one pixel.
    "row", "output_height", "output_width", "height", "width", "kernel_height", "kernel_width",
    "stride_down", "stride_across", "padding_down", "padding_across", "dilation_down", "dilation_across",
)  # fmt: skip
"""What a kernel is told of a layer's call, as int64 numbers in this order."""


@triton.jit(do_not_specialize=["first", "count"])
def _measure_layer(x, y, geometry, input_sums, output_sums, chosen, rows, first, count):
    program = tl.program_id(0)
    input_programs = tl.load(geometry + 0)
    output_programs = tl.load(geometry + 1)
    if program < input_programs:
        sums = input_sums + tl.load(geometry + 4)
        stride, share = tl.load(geometry + 5), tl.load(geometry + 2)
        length, channels, planes = tl.load(geometry + 9), tl.load(geometry + 10), tl.load(geometry + 11)
        if tl.load(geometry + 8) != 0:
            if channels % 8 == 0:
                _sum_columns(x, sums, stride, program, share, length, channels, _EIGHT)
            else:
                _sum_columns(x, sums, stride, program, share, length, channels, _ONE)
        else:
            if length % 8 == 0:
                _sum_planes(x, sums, stride, program, share, length, channels, planes, _EIGHT)
            else:
                _sum_planes(x, sums, stride, program, share, length, channels, planes, _ONE)
    elif program < input_programs + output_programs:
        sums = output_sums + tl.load(geometry + 6)
        stride, share = tl.load(geometry + 7), tl.load(geometry + 3)
        outputs = tl.load(geometry + 12)
        if outputs % 8 == 0:
            _sum_outputs(y, sums, stride, program - input_programs, share, outputs, _EIGHT)
        else:
            _sum_outputs(y, sums, stride, program - input_programs, share, outputs, _ONE)
    else:
        _sample(x, geometry, chosen, rows, first, count, program - input_programs - output_programs)


@triton.jit
def _known(number, multiple: tl.constexpr):
    """A multiple of ``multiple``, so that the compiler sees it to be one: it then loads eight numbers at a time.

    ``tl.multiple_of`` marks the number wherever it is used, in the branch for other numbers, too.
    """
    return number // multiple * multiple


@triton.jit
def _sum_columns(x, sums, stride, part, share, length, channels, multiple: tl.constexpr):
    """``part`` of x [length, channels]: some channels of ``share`` rows. Channels are a multiple of multiple."""
    channels = _known(channels, multiple)
    across = tl.cdiv(channels, _CHANNELS)
    channel = (part % across) * _CHANNELS + tl.arange(0, _CHANNELS)
    begin = (part // across) * share
    end = tl.minimum(begin + share, length)
    absolute = tl.zeros([_ROWS, _CHANNELS], tl.float32)
    plain = tl.zeros([_ROWS, _CHANNELS], tl.float32)
    square = tl.zeros([_ROWS, _CHANNELS], tl.float32)
    for start in range(begin, end, _ROWS):
        row = start + tl.arange(0, _ROWS)
        inside = (row < end)[:, None] & (channel < channels)[None, :]
        value = tl.load(x + row[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        absolute += tl.abs(value)
        plain += value
        square += value * value
    _add(sums + channel, stride, channel < channels, tl.sum(absolute, 0), tl.sum(plain, 0), tl.sum(square, 0))


@triton.jit
def _sum_planes(x, sums, stride, part, share, length, channels, planes, multiple: tl.constexpr):
    """``part`` of x [planes, length]: ``share`` pixels of some planes; plane p is of channel p % channels."""
    length = _known(length, multiple)
    share = _known(share, _PIXELS)
    down = tl.cdiv(planes, _PLANES)
    plane = (part % down) * _PLANES + tl.arange(0, _PLANES)
    begin = (part // down) * share
    end = _known(tl.minimum(begin + share, length), multiple)
    absolute = tl.zeros([_PLANES, _PIXELS], tl.float32)
    plain = tl.zeros([_PLANES, _PIXELS], tl.float32)
    square = tl.zeros([_PLANES, _PIXELS], tl.float32)
    for start in range(begin, end, _PIXELS):
        pixel = start + tl.arange(0, _PIXELS)
        inside = (plane < planes)[:, None] & (pixel < end)[None, :]
        value = tl.load(x + plane[:, None] * length + pixel[None, :], mask=inside, other=0.0).to(tl.float32)
        absolute += tl.abs(value)
        plain += value
        square += value * value
    at = sums + plane % channels
    _add(at, stride, plane < planes, tl.sum(absolute, 1), tl.sum(plain, 1), tl.sum(square, 1))


@triton.jit
def _add(at, stride, inside, absolute, plain, square):
    tl.atomic_add(at, absolute.to(tl.float64), mask=inside, sem="relaxed")
    tl.atomic_add(at + stride, plain.to(tl.float64), mask=inside, sem="relaxed")
    tl.atomic_add(at + 2 * stride, square.to(tl.float64), mask=inside, sem="relaxed")


@triton.jit
def _sum_outputs(y, sums, stride, part, share, outputs, multiple: tl.constexpr):
    """``share`` of all outputs."""
    outputs = _known(outputs, multiple)
    share = _known(share, _OUTPUTS)
    begin = part * share
    end = _known(tl.minimum(begin + share, outputs), multiple)
    plain = tl.zeros([_OUTPUTS], tl.float32)
    square = tl.zeros([_OUTPUTS], tl.float32)
    for start in range(begin, end, _OUTPUTS):
        at = start + tl.arange(0, _OUTPUTS)
        value = tl.load(y + at, mask=at < end, other=0.0).to(tl.float32)
        plain += value
        square += value * value
    tl.atomic_add(sums, tl.sum(plain, 0).to(tl.float64), sem="relaxed")
    tl.atomic_add(sums + stride, tl.sum(square, 0).to(tl.float64), sem="relaxed")


@triton.jit
def _sample(x, geometry, chosen, rows, first, count, part):
    """Some taps of one of the chosen rows, as FP16, into ``rows`` [size, row] from the row ``first`` on."""
    row = tl.load(geometry + 13)
    parts = tl.cdiv(row, _TAPS)
    number = part // parts
    if number < count:
        position = tl.load(chosen + number)
        output_height, output_width = tl.load(geometry + 14), tl.load(geometry + 15)
        height, width = tl.load(geometry + 16), tl.load(geometry + 17)
        kernel_height, kernel_width = tl.load(geometry + 18), tl.load(geometry + 19)
        tap = (part % parts) * _TAPS + tl.arange(0, _TAPS)
        channel = tap // (kernel_height * kernel_width)
        down = tap // kernel_width % kernel_height * tl.load(geometry + 24)
        down += position // output_width % output_height * tl.load(geometry + 20) - tl.load(geometry + 22)
        across = tap % kernel_width * tl.load(geometry + 25)
        across += position % output_width * tl.load(geometry + 21) - tl.load(geometry + 23)
        picture = position // (output_height * output_width)
        # Zero where the window reaches beyond the picture.
        inside = (tap < row) & (down >= 0) & (down < height) & (across >= 0) & (across < width)
        at = ((picture * tl.load(geometry + 10) + channel) * height + down) * width + across
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.minimum(tl.maximum(value, -_LARGEST_FP16), _LARGEST_FP16)
        tl.store(rows + (first + number) * row + tap, value.to(tl.float16), mask=tap < row)


measure_layer = Kernel(_measure_layer)
