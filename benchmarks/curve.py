"""The README's image from ``fidelity.json``: error of the UNet and of the final latents over the file's size.

python -m benchmarks.curve fidelity_output/fidelity.json docs/images/curve.png
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT, _MARGIN = 1200, 480, 80
_COLOURS = {
    "reference v1": "#999999",
    "reference v2": "#444444",
    "calibrated v1": "#3a78b5",
    "calibrated v2": "#d2603a",
    "calibrated int8": "#3f9b6d",
}
# The mean over images is made by the few in which the sampler takes another turn; the median is what to expect.
_MEASURES: tuple[tuple[Callable[[dict[str, Any]], float], str], ...] = (
    (lambda figures: figures["unet_error"], "error of the UNet's output"),
    (lambda figures: median(figures["latent_mse_each"]), "MSE of the final latents, median over images"),
)


def series(models: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Points by line, smallest file first; calibrated lines begin where nothing is kept."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, figures in models.items():
        how, _, rest = name.partition(" ")
        line = f"{how.split('+')[0]} {rest.split()[0]}" if rest else ""
        if len(rest.split()) == 2 and line in _COLOURS and how in ("reference", "calibrated", "calibrated+measured"):
            found.setdefault(line, []).append(figures)
    return {line: sorted(points, key=lambda p: p["bytes"]) for line, points in found.items()}


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    lines = series(json.loads(source.read_text(encoding="utf-8"))["models"])
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    for panel, (measure, title) in enumerate(_MEASURES):
        left = _MARGIN + panel * _WIDTH // 2
        right, top, bottom = left + _WIDTH // 2 - _MARGIN - 30, 50, _HEIGHT - 60
        values = [math.log10(measure(p)) for points in lines.values() for p in points]
        sizes = [p["bytes"] / 1e6 for points in lines.values() for p in points]
        low, high = math.floor(min(values)), math.ceil(max(values))
        first, last = math.floor(min(sizes)), math.ceil(max(sizes))
        draw.text((left, 18), title, "black", font)
        for power in range(low, high + 1):
            y = bottom - (power - low) / (high - low) * (bottom - top)
            draw.line((left, y, right, y), "#dddddd")
            draw.text((left - 45, y - 9), f"1e{power}", "black", font)
        for size in range(first, last + 1):
            x = left + (size - first) / (last - first) * (right - left)
            draw.text((x - 5, bottom + 8), str(size), "black", font)
        draw.text((left + (right - left) / 2 - 40, bottom + 30), "file, MB", "black", font)
        for row, (line, points) in enumerate(lines.items()):
            path = [
                (
                    left + (p["bytes"] / 1e6 - first) / (last - first) * (right - left),
                    bottom - (math.log10(measure(p)) - low) / (high - low) * (bottom - top),
                )
                for p in points
            ]
            draw.line(path, _COLOURS[line], 3)
            for x, y in path:
                draw.ellipse((x - 4, y - 4, x + 4, y + 4), _COLOURS[line])
            if not panel:  # there the upper right is empty
                draw.text((right - 110, top + 20 * row), line, _COLOURS[line], font)
    image.save(target)


if __name__ == "__main__":
    main()
