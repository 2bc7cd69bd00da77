"""Predicted error over size, drawn with Pillow: a line for every format measured, the model card as a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from PIL import ImageDraw, ImageFont

from ..hswq_core.planning.measured_curves import MeasuredCurve

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, PALE = "#222222", "#bbbbbb"
_COLOURS = ("#3a78b5", "#3f9b6d", "#8a5fb5", "#b58a3a", "#5fb5b0", "#b55f86")
_CARD = "#d2603a"
_LEAST = 1e-8
"""Below, nothing is to be seen in an image."""


def draw_errors(
    draw: ImageDraw.ImageDraw,
    font: Font,
    curves: Sequence[MeasuredCurve],
    card: tuple[float, float] | None,
    box: tuple[int, int, int, int],
) -> None:
    """Args: box: left, top, right, bottom of the lines, in pixels."""
    left, top, right, bottom = box
    draw.text((left, top - 30), "predicted error of the output over the layers' share of their 16 bits", INK, font)
    shown = [p for curve in curves for p in zip(curve.shares, curve.errors, strict=True) if p[1] >= _LEAST]
    points = shown + ([card] if card and card[1] > 0 else [])
    if not points:
        return
    high = math.ceil(max(math.log10(error) for _, error in points))
    low = min(math.floor(min(math.log10(error) for _, error in points)), high - 1)

    def place(share: float, error: float) -> tuple[float, float]:
        level = (math.log10(max(error, 10.0**low)) - low) / (high - low)
        return left + (right - left) * min(share, 1.0), bottom - (bottom - top) * level

    for power in range(low, high + 1):
        y = place(0, 10.0**power)[1]
        draw.line((left, y, right, y), PALE)
        draw.text((left - 60, y - 8), f"1e{power}", INK, font)
    for percent in range(0, 101, 20):
        draw.text((place(percent / 100, 1)[0] - 12, bottom + 6), f"{percent} %", INK, font)
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        line = [place(*p) for p in zip(curve.shares, curve.errors, strict=True) if p[1] >= _LEAST]
        if len(line) > 1:
            draw.line(line, colour, 3)
        draw.text((right - 220, top + 4 + 20 * number), curve.name, colour, font)
    if card:
        x, y = place(*card)
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), _CARD)
        draw.text((right - 220, top + 4 + 20 * len(curves)), "the model card's", _CARD, font)
