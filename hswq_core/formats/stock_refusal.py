"""What a file's header says so that ComfyUI's own loaders stop, instead of rendering noise."""

from __future__ import annotations

import json
from collections.abc import Sequence


def refusal_header(unknown: str, linear: Sequence[str]) -> dict[str, str]:
    """Declares an unknown format for one Linear layer, so that stock loaders fail and name it.

    Args:
        unknown: the format that the error names.
        linear: Linear layers of the file that are quantized.
    """
    if not linear:
        return {}
    # Some versions name a layer as the file does, others as the model does.
    names = {linear[0], linear[0].partition("diffusion_model.")[2] or linear[0]}
    layers = {name: {"format": unknown} for name in sorted(names)}
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
