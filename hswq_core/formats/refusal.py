"""What keeps ComfyUI's own loaders from a file which they would open as noise: words in its header, and tensors.

The quantizer says what its files are in their headers. *Save Checkpoint* writes a header of its own, and only the names
of tensors are left to speak. ComfyUI tells model families by them. With these it takes a file for Stable Diffusion 3,
reads the number of a block out of a name, and stops with what stands there instead of a number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

_BLOCK, _LAYER = "joint_blocks.", ".x_block.attn2.qkv.weight"
# Nothing in them is read but, of the second, a size. None has as many dimensions as the weight of a layer.
_LOOKED_FOR = {f"{_BLOCK}0.context_block.attn.qkv.weight": (0,), "x_embedder.proj.weight": (1,) * 6}
_SAYING = "open this file with HSWQ Loader"


def refusal_header(kind: str, linear: Sequence[str]) -> dict[str, str]:
    """Declares an unknown format for one Linear layer, so that stock loaders stop and name it.

    Args:
        kind: the format that the error names ("hswq_int8"), and HSWQ Loader after it.
        linear: Linear layers of the file that are quantized.
    """
    if not linear:
        return {}
    # Some versions name a layer as the file does, others as the model does.
    names = {linear[0], linear[0].partition("diffusion_model.")[2] or linear[0]}
    layers = {name: {"format": f"{kind}: {_SAYING}"} for name in sorted(names)}
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def refusing_tensors(kind: str) -> dict[str, torch.Tensor]:
    """What is added to a diffusion model's tensors; the error then names ``kind`` ("hswq_int8") and HSWQ Loader."""
    shapes = {**_LOOKED_FOR, f"{_BLOCK}{kind}: {_SAYING}{_LAYER}": (0,)}
    return {name: torch.zeros(shape, dtype=torch.uint8) for name, shape in shapes.items()}


def is_refusal(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of a diffusion model is one of these, by its name in the model or in a file."""
    if name.endswith(_LAYER) and f"{_SAYING}{_LAYER}" in name:
        return True
    return any(name.endswith(known) and shape == known_shape for known, known_shape in _LOOKED_FOR.items())
