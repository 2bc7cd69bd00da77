"""Layouts of comfy-kitchen that HSWQ Loader does not read: MXFP8, W4A4 and W4A8.

Each has a function for its weight, float32 [C_out, C_in], and one for its scales, given the layer's name and what its
description says. Errors: CheckpointError where parts are missing or do not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...files.layers import WEIGHT
from ...formats.nvfp4 import swizzled_shape, unswizzled
from ...rounding.rotation import rotated
from .stored import StoredTensors, count_in

MX_BLOCK = 32
Read = Callable[[StoredTensors, str, dict[str, Any]], torch.Tensor]


def setting(said: dict[str, Any], key: str, default: int) -> int:
    """A number of the description, or of its ``params``."""
    inner = said.get("params")
    return count_in(said, key, count_in(inner, key, default) if isinstance(inner, dict) else default)


def mx_scale(tensors: StoredTensors, name: str, _said: dict[str, Any]) -> torch.Tensor:
    """Powers of two (E8M0), a scale for every 32 columns, in the order of cuBLAS: float32 [C_out, blocks]."""
    rows, columns = tensors.left[name + WEIGHT].shape
    key, blocks = name + ".weight_scale", columns // MX_BLOCK
    info = tensors.left.get(key)
    fits = info is not None and info.dtype in ("U8", "F8_E8M0") and info.shape == swizzled_shape(rows, blocks)
    if info is None or not fits or columns % MX_BLOCK:
        found = "are missing" if info is None else f"have the shape {list(info.shape)}, which does not fit"
        raise tensors.damaged(f"the scales of {name} {found}")
    stored = tensors.source.tensor_or_bytes(key).view(torch.uint8).reshape(info.shape)  # torch may not know E8M0
    powers = unswizzled(stored, rows, blocks)
    if bool((powers == 255).any()):
        raise tensors.damaged(f"the scale of {name} is not finite")
    return torch.pow(2.0, powers.float() - 127)


def mxfp8(tensors: StoredTensors, name: str, said: dict[str, Any]) -> torch.Tensor:
    scale = mx_scale(tensors, name, said)
    return (tensors.tensor(name + WEIGHT).float().unflatten(1, (-1, MX_BLOCK)) * scale[:, :, None]).flatten(1)


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Two numbers from 0 to 15 of each byte, the low one first: int64 [N, 2 K]."""
    numbers = packed.view(torch.uint8).long()
    return torch.stack([numbers & 15, numbers >> 4], dim=-1).flatten(1)


def w4a4_scale(tensors: StoredTensors, name: str, _said: dict[str, Any]) -> torch.Tensor:
    rows = tensors.left[name + WEIGHT].shape[0]
    key = name + ".weight_scale"
    return tensors.checked(lambda: tensors.tensor(key), lambda shape: shape in ((rows,), (rows, 1)), name).reshape(
        -1, 1
    )


def w4a4(tensors: StoredTensors, name: str, said: dict[str, Any]) -> torch.Tensor:
    """Signed 4 bits, a scale for each row, rotated."""
    numbers = _nibbles(tensors.tensor(name + WEIGHT))
    signed = torch.where(numbers > 7, numbers - 16, numbers).float()
    return _turned(tensors, name, signed * w4a4_scale(tensors, name, said), said)


def w4a8_scale(tensors: StoredTensors, name: str, said: dict[str, Any]) -> torch.Tensor:
    """Of groups within a row, relative to the row's own: float32 [C_out, groups]."""
    rows, columns = tensors.left[name + WEIGHT].shape[0], 2 * tensors.left[name + WEIGHT].shape[1]
    groups = max(1, columns // setting(said, "group_size", 16))
    if columns % groups:
        raise tensors.damaged(f"the layer {name} has {columns} columns, which are not {groups} groups")
    relative = tensors.tensor(name + ".weight_s_rel")
    relative = relative.view(torch.float8_e4m3fn) if relative.dtype == torch.uint8 else relative
    found = tensors.checked(lambda: relative, lambda shape: shape == (rows, groups), name)
    own = tensors.checked(lambda: tensors.tensor(name + ".weight_s_channel"), lambda shape: shape == (rows,), name)
    return found * own[:, None]


def w4a8(tensors: StoredTensors, name: str, said: dict[str, Any]) -> torch.Tensor:
    """Numbers that point into a table, or 0 to 15 less 8; times the group's scale they are whole, as INT8 products
    want them; times the row's scale they are the weight, rotated."""
    scale = w4a8_scale(tensors, name, said)
    own = tensors.tensor(name + ".weight_s_channel").float()[:, None]
    numbers = _nibbles(tensors.tensor(name + WEIGHT))
    table = name + ".weight_codebook"
    values = numbers.float() - 8
    if table in tensors.left:
        values = tensors.checked(lambda: tensors.tensor(table), lambda shape: shape == (16,), name)[numbers]
    group = numbers.shape[1] // scale.shape[1]
    whole = (values.unflatten(1, (-1, group)) * (scale / own)[:, :, None]).round().clamp(-127, 127) * own[:, :, None]
    added = name + ".weight_correction"
    if added in tensors.left:
        shape = (scale.shape[1], scale.shape[0])
        correction = tensors.checked(lambda: tensors.tensor(added), lambda found: found == shape, name)
        whole = whole + correction.t()[:, :, None]
    return _turned(tensors, name, whole.flatten(1), said)


def _turned(tensors: StoredTensors, name: str, weight: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    group = setting(said, "convrot_groupsize", 256)
    if weight.shape[1] % group or group not in (4**power for power in range(1, 8)):
        raise tensors.damaged(f"the layer {name} cannot be rotated in groups of {group}")
    return rotated(weight, group)


LAYOUTS: dict[str, tuple[Read, Read]] = {
    "mxfp8": (mxfp8, mx_scale),
    "convrot_w4a4": (w4a4, w4a4_scale),
    "asym_w4a8_int8": (w4a8, w4a8_scale),
}
"""By the format: what reads the weight, and what reads its scales."""
