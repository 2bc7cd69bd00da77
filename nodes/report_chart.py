"""The report's image, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..hswq_core.planning.measured_curves import card_point, measured_curves
from ..hswq_core.planning.preview import Preview
from .error_chart import INK, PALE, Font, draw_errors

_WIDTH, _HEIGHT, _MARGIN, _NOISE_HEIGHT, _ERRORS_HEIGHT = 1200, 760, 70, 120, 420
_KEPT, _FP8, _PAPER = "#d2603a", "#3a78b5", "#ffffff"


def report_chart(shown: Preview) -> torch.Tensor:
    """Layers by sensitivity (logarithmic, kept ones in red), steps by noise level, and predicted error over size where
    it was measured: [1, H, W, 3] in [0, 1]."""
    curves = measured_curves(shown.statistics)
    image = Image.new("RGB", (_WIDTH, _HEIGHT + (_ERRORS_HEIGHT if curves else 0)), _PAPER)
    draw, font, large = ImageDraw.Draw(image), ImageFont.load_default(15), ImageFont.load_default(20)
    total = (shown.fp8_bytes + shown.kept_bytes) / 1e6
    title = f"{len(shown.layers)} layers by {shown.selection}: {shown.kept} kept at ratio {shown.keep_ratio:g}"
    draw.text((_MARGIN, 18), title, INK, large)
    draw.text((_MARGIN, 44), f"weights {total:,.1f} MB, {shown.kept_bytes / 1e6:,.1f} MB of it for keeping", INK, font)
    _layers(draw, font, shown, top=90, bottom=_HEIGHT - _NOISE_HEIGHT - 80)
    _noise_levels(draw, font, shown.statistics.noise_levels, top=_HEIGHT - _NOISE_HEIGHT - 20, bottom=_HEIGHT - 40)
    if curves:
        box = (_MARGIN, _HEIGHT + 50, _WIDTH - _MARGIN, _HEIGHT + _ERRORS_HEIGHT - 40)
        draw_errors(draw, font, curves, card_point(shown.statistics), box)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def _layers(draw: ImageDraw.ImageDraw, font: Font, shown: Preview, top: int, bottom: int) -> None:
    values = [math.log10(max(layer.sensitivity, 1e-30)) for layer in shown.layers]
    high = math.ceil(values[0]) if values else 0
    low = max(math.floor(values[-1]), high - 12) if values else -1
    shares = [(value - low) / max(high - low, 1) for value in values]
    for power in range(low, high + 1):
        y = bottom - (bottom - top) * (power - low) / max(high - low, 1)
        draw.line((_MARGIN, y, _WIDTH - _MARGIN, y), PALE)
        draw.text((10, y - 8), f"1e{power}", INK, font)
    _bars(draw, shares, [_KEPT if layer.kept else _FP8 for layer in shown.layers], 1, top, bottom)
    for row, (colour, text) in enumerate(((_KEPT, "kept"), (_FP8, "FP8"))):
        draw.rectangle((_WIDTH - 170, top + 22 * row, _WIDTH - 156, top + 14 + 22 * row), colour)
        draw.text((_WIDTH - 148, top - 2 + 22 * row), text, INK, font)


def _noise_levels(draw: ImageDraw.ImageDraw, font: Font, levels: Sequence[int], top: int, bottom: int) -> None:
    draw.text((_MARGIN, top - 26), "calibrated steps by noise level, clean to pure noise", INK, font)
    shares = [count / max(*levels, 1) for count in levels]
    lefts = _bars(draw, shares, [_FP8 if count else _KEPT for count in levels], 4, top, bottom)
    for left, count in zip(lefts, levels, strict=True):
        draw.text((left + 4, bottom + 4), str(count), INK, font)


def _bars(
    draw: ImageDraw.ImageDraw, shares: Sequence[float], colours: Sequence[str], gap: int, top: int, bottom: int
) -> list[float]:
    """Bars over the whole width. Args: shares: heights in [0, 1]. Returns: where each begins."""
    step = (_WIDTH - 2 * _MARGIN) / max(len(shares), 1)
    lefts = [_MARGIN + number * step for number in range(len(shares))]
    for left, share, colour in zip(lefts, shares, colours, strict=True):
        height = (bottom - top) * min(1.0, max(0.0, share))
        draw.rectangle((left, bottom - height, left + max(step - gap, 1), bottom), colour)
    return lefts
