"""All that calibration measures in one call of a layer, in one launch: input sums, output sums and sampled rows.

Every tensor is read once. A program sums its part in float32 and adds it to the layer's sums in float64, so that the
order in which programs end does not show in the result.
"""

# Triton takes annotations for types of its own.
# pyright: reportMissingParameterType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import Kernel, is_aligned
from .layer_params import CHANNELS, OUTPUTS, PIXELS, PLANES, ROWS, TAPS, LaunchParams

_ROWS, _CHANNELS, _PLANES, _PIXELS = (tl.constexpr(n) for n in (ROWS, CHANNELS, PLANES, PIXELS))
_OUTPUTS, _TAPS = tl.constexpr(OUTPUTS), tl.constexpr(TAPS)
_ONE, _EIGHT = tl.constexpr(1), tl.constexpr(8)
_LARGEST_FP16 = tl.constexpr(65504.0)


def _index(name: str) -> tl.constexpr:
    """Where a launch parameter stands among the others."""
    return tl.constexpr(LaunchParams._fields.index(name))


_INPUT_PROGRAMS_AT = _index("input_programs")
_OUTPUT_PROGRAMS_AT = _index("output_programs")
_INPUT_SHARE_AT = _index("input_share")
_OUTPUT_SHARE_AT = _index("output_share")
_INPUT_PLACE_AT = _index("input_place")
_INPUT_STRIDE_AT = _index("input_stride")
_OUTPUT_PLACE_AT = _index("output_place")
_OUTPUT_STRIDE_AT = _index("output_stride")
_CHANNELS_LAST_AT = _index("channels_last")
_LENGTH_AT = _index("length")
_CHANNELS_AT = _index("channels")
_PLANES_AT = _index("planes")
_OUTPUTS_AT = _index("outputs")
_ROW_AT = _index("row")
_OUTPUT_HEIGHT_AT = _index("output_height")
_OUTPUT_WIDTH_AT = _index("output_width")
_HEIGHT_AT = _index("height")
_WIDTH_AT = _index("width")
_KERNEL_HEIGHT_AT = _index("kernel_height")
_KERNEL_WIDTH_AT = _index("kernel_width")
_STRIDE_DOWN_AT = _index("stride_down")
_STRIDE_ACROSS_AT = _index("stride_across")
_PADDING_DOWN_AT = _index("padding_down")
_PADDING_ACROSS_AT = _index("padding_across")
_DILATION_DOWN_AT = _index("dilation_down")
_DILATION_ACROSS_AT = _index("dilation_across")


def measure(
    params: LaunchParams,
    packed: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    input_sums: torch.Tensor,
    output_sums: torch.Tensor,
    chosen: torch.Tensor,
    rows: torch.Tensor,
    first: int,
    count: int,
) -> None:
    """Add a call's sums to ``input_sums`` and ``output_sums``, and put ``count`` sampled rows into ``rows``.

    Args:
        packed: ``params`` as int64 on the device.
        chosen: the positions of the rows.
        rows: FP16 [size, row], filled from the row ``first`` on.
    """
    kind = (x.dtype, y.dtype, x.device, is_aligned(x, y))
    measure_layer.launch(
        params.programs(count), kind, x, y, packed, input_sums, output_sums, chosen, rows, first, count
    )


@triton.jit(do_not_specialize=["first", "count"])
def _measure_layer(x, y, params, input_sums, output_sums, chosen, rows, first, count):
    program = tl.program_id(0)
    input_programs = tl.load(params + _INPUT_PROGRAMS_AT)
    output_programs = tl.load(params + _OUTPUT_PROGRAMS_AT)
    if program < input_programs:
        sums = input_sums + tl.load(params + _INPUT_PLACE_AT)
        stride, share = tl.load(params + _INPUT_STRIDE_AT), tl.load(params + _INPUT_SHARE_AT)
        length, channels, planes = (
            tl.load(params + _LENGTH_AT),
            tl.load(params + _CHANNELS_AT),
            tl.load(params + _PLANES_AT),
        )
        if tl.load(params + _CHANNELS_LAST_AT) != 0:
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
        sums = output_sums + tl.load(params + _OUTPUT_PLACE_AT)
        stride, share = tl.load(params + _OUTPUT_STRIDE_AT), tl.load(params + _OUTPUT_SHARE_AT)
        outputs = tl.load(params + _OUTPUTS_AT)
        if outputs % 8 == 0:
            _sum_outputs(y, sums, stride, program - input_programs, share, outputs, _EIGHT)
        else:
            _sum_outputs(y, sums, stride, program - input_programs, share, outputs, _ONE)
    else:
        _sample(x, params, chosen, rows, first, count, program - input_programs - output_programs)


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
def _sample(x, params, chosen, rows, first, count, part):
    """Some taps of one of the chosen rows, as FP16, into ``rows`` [size, row] from the row ``first`` on."""
    row = tl.load(params + _ROW_AT)
    parts = tl.cdiv(row, _TAPS)
    number = part // parts
    if number < count:
        position = tl.load(chosen + number)
        output_height, output_width = tl.load(params + _OUTPUT_HEIGHT_AT), tl.load(params + _OUTPUT_WIDTH_AT)
        height, width = tl.load(params + _HEIGHT_AT), tl.load(params + _WIDTH_AT)
        kernel_height, kernel_width = tl.load(params + _KERNEL_HEIGHT_AT), tl.load(params + _KERNEL_WIDTH_AT)
        tap = (part % parts) * _TAPS + tl.arange(0, _TAPS)
        channel = tap // (kernel_height * kernel_width)
        down = tap // kernel_width % kernel_height * tl.load(params + _DILATION_DOWN_AT)
        down += position // output_width % output_height * tl.load(params + _STRIDE_DOWN_AT) - tl.load(
            params + _PADDING_DOWN_AT
        )
        across = tap % kernel_width * tl.load(params + _DILATION_ACROSS_AT)
        across += position % output_width * tl.load(params + _STRIDE_ACROSS_AT) - tl.load(params + _PADDING_ACROSS_AT)
        image = position // (output_height * output_width)
        # Zero where the window reaches beyond the image.
        inside = (tap < row) & (down >= 0) & (down < height) & (across >= 0) & (across < width)
        at = ((image * tl.load(params + _CHANNELS_AT) + channel) * height + down) * width + across
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.minimum(tl.maximum(value, -_LARGEST_FP16), _LARGEST_FP16)
        tl.store(rows + (first + number) * row + tap, value.to(tl.float16), mask=tap < row)


measure_layer = Kernel(_measure_layer)
