"""The README's image from ``fidelity.json``: error of the UNet and of the final latents over the file's size.

pip install matplotlib
python -m benchmarks.curve fidelity_output/fidelity.json docs/images/curve.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

_COLOURS = {
    "reference v1": "#999999",
    "reference v2": "#444444",
    "calibrated v1": "#3a78b5",
    "calibrated v2": "#d2603a",
    "calibrated int8": "#3f9b6d",
    "mixed": "#8a5fb5",
    "comfy-mixed": "#b58a3a",
}
_PEERS = ("nf4", "nvfp4", "gguf q4_0", "gguf q5_1", "int4 gptq", "local mixer 0.68")
# The mean over images is made by the few in which the sampler takes another turn; the median is what to expect.
_MEASURES: tuple[tuple[Callable[[dict[str, Any]], float], str], ...] = (
    (lambda figures: figures["unet_error"], "error of the UNet's output"),
    (lambda figures: median(figures["latent_mse_each"]), "MSE of the final latents, median over images"),
)


def series(models: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Points by line, smallest file first; calibrated lines begin where nothing is kept."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, figures in models.items():
        if (line := _line_of(name)) in _COLOURS:
            found.setdefault(line, []).append(figures)
    return {line: sorted(found[line], key=lambda p: p["bytes"]) for line in _COLOURS if line in found}


def _line_of(name: str) -> str:
    """The line that a model belongs to: "mixed 0.33", "calibrated+measured v2 0.1"; nothing for what has none."""
    how, _, rest = name.partition(" ")
    words = rest.split()
    if how in ("mixed", "comfy-mixed"):
        return how if rest.replace(".", "").isdigit() else ""
    whole = how in ("reference", "calibrated", "calibrated+measured") and len(words) == 2
    return f"{how.split('+')[0]} {words[0]}" if whole else ""


def main() -> None:
    import matplotlib.pyplot as plt  # pyright: ignore[reportMissingImports]

    source, target = map(Path, sys.argv[1:])
    models = json.loads(source.read_text(encoding="utf-8"))["models"]
    figure, panels = plt.subplots(1, len(_MEASURES), figsize=(12, 4.8), layout="constrained")
    for panel, (measure, title) in zip(panels, _MEASURES, strict=True):
        for line, points in series(models).items():
            sizes, values = [p["bytes"] / 1e6 for p in points], [measure(p) for p in points]
            panel.semilogy(sizes, values, "o-", color=_COLOURS[line], label=line, markersize=4)
        for name in (name for name in _PEERS if name in models):
            size, value = models[name]["bytes"] / 1e6, measure(models[name])
            panel.semilogy([size], [value], "x", color="#777777")
            panel.annotate(name, (size, value), (5, 4), textcoords="offset points", color="#777777", fontsize=8)
        panel.set_title(title)
        panel.set_xlabel("file, MB")
        panel.grid(visible=True, color="#dddddd")
    panels[0].legend(fontsize=8)
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
