"""Layers of ComfyUI's formats that have lost the description beside them, without which its loaders draw noise."""

from __future__ import annotations

from collections import Counter

import torch

from ...formats import COMFY, COMFY_INT8
from ...formats.stored_layer import DESCRIPTION, ROTATION
from .. import kinds
from ..contents import Contents
from ..kinds import Kind
from ..layer import QuantizedLayer

_DESCRIBED = {kinds.WEIGHT_SCALE_FP8: kinds.COMFY_FP8, kinds.INT8: kinds.INT8_TENSORWISE}
"""What a layer is with a description, by what it looks like without."""
_FORMATS = {kinds.COMFY_FP8: COMFY, kinds.INT8_TENSORWISE: COMFY_INT8}
_OF_MODE = {
    "comfy": kinds.COMFY_FP8, "comfy-int8": kinds.INT8_TENSORWISE, "comfy-mixed": kinds.INT8_TENSORWISE,
}  # fmt: skip


def lost_description(contents: Contents, layer: QuantizedLayer) -> Kind | None:
    """The kind that a layer had before it lost its description: that of its file, or of most layers of its part.

    ``None`` for layers that have lost none. What has no scale either may be a kept layer that was cast.
    """
    kind = _DESCRIBED.get(layer.kind)
    if kind is None or layer.name + ROTATION in contents.tensors:
        return None
    mode, part = contents.metadata.get("hswq.mode", ""), contents.part_of(layer.name)
    others = [each for name, each in contents.layers.items() if contents.part_of(name) == part]
    described = sum(each.kind == kind and each.name + DESCRIPTION in contents.tensors for each in others)
    if mode in _OF_MODE and part == "diffusion model":
        # Where no integers have a description, the mode is wrong: they are those of HSWQ's int8.
        return kind if _OF_MODE[mode] == kind and (described or kind == kinds.COMFY_FP8) else None
    return kind if 2 * described > len(others) else None


def descriptions(contents: Contents, layer: QuantizedLayer, kind: Kind) -> list[tuple[torch.Tensor, int]]:
    """The descriptions that a layer of a kind can have with the columns that each rotates together, the most common of
    the file first; empty where it is not a description that the layer lacks.
    """
    if kind not in _FORMATS or kind == layer.kind:
        return []
    assert contents.source is not None
    found: Counter[tuple[tuple[int, ...], int]] = Counter()
    for other in contents.layers.values():
        if other.kind == kind and other.name + DESCRIPTION in contents.tensors:
            text = contents.source.tensor(other.name + DESCRIPTION).flatten().view(torch.uint8).tolist()
            found[tuple(text), other.rotation] += 1
    if not found:
        own = _FORMATS[kind].form.planned_side_tensors(layer.name, layer.shape)[layer.name + DESCRIPTION]
        return [(own, 1)]
    return [(torch.tensor(text, dtype=torch.uint8), group) for (text, group), _ in found.most_common()]
