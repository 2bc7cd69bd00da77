"""Models side by side: their images, and how each differs from the first model's, amplified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFont

_MARGIN, _GAP, _HEAD = 150, 8, 28


def contact_sheet(
    rows: Mapping[str, Sequence[Image.Image]], columns: int = 4, zoom: int = 4, amplification: int = 8
) -> Image.Image:
    """A row a model; for each of some images it, and beside it the difference to the first model's, amplified.

    Args:
        rows: images of one size by what their row says; the first row is the original.
        columns: how many of the images are shown.
        zoom: pixels are enlarged so much, without smoothing.
        amplification: differences are made so much brighter.
    """
    original = next(iter(rows.values()))
    amplified = [min(255, amplification * value) for value in range(256)] * 3
    width, height = original[0].width * zoom, original[0].height * zoom
    size = (_MARGIN + columns * 2 * (width + _GAP), _HEAD + len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column in range(columns):
        x = _MARGIN + column * 2 * (width + _GAP)
        draw.text((x, 4), "image", fill="black", font=font)
        draw.text((x + width + _GAP, 4), f"difference x {amplification}", fill="black", font=font)
    for row, (said, images) in enumerate(rows.items()):
        y = _HEAD + row * (height + _GAP)
        draw.multiline_text((8, y + height // 2 - 30), said, fill="black", font=font, spacing=6)
        for column, (image, reference) in enumerate(zip(images[:columns], original, strict=False)):
            x = _MARGIN + column * 2 * (width + _GAP)
            difference = ImageChops.difference(image, reference).point(amplified)
            for number, shown in enumerate((image, difference)):
                large = shown.resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(large, (x + number * (width + _GAP), y))
    return sheet
