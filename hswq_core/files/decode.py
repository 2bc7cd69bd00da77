"""Reads one quantized layer of any format: for the converter, the inspector and the loader alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..formats.nvfp4 import swizzled_shape, unswizzled
from ..formats.packing import packed_columns
from ..formats.stored_layer import (
    DESCRIPTION,
    FACTOR,
    FP8_DTYPES,
    LAYER_DIMENSIONS,
    MARKERS,
    NVFP4,
    PACKED_BITS,
    PACKED_DTYPE,
    ROTATION,
    SCALE_SUFFIXES,
)
from ..grids import E2M1, E4M3, INT8
from ..grids.block_scales import BLOCK, blocks_of
from ..grids.group_scales import GROUP, groups_of
from ..inference.packed import dequantize_packed
from ..rounding.rotation import rotated
from .layers import WEIGHT
from .source import TensorSource

_GROUPS = tuple(4**power for power in range(1, 8))
"""Of columns that ComfyUI rotates together."""
_ANOTHER_READER = "Open it with ComfyUI's own loader, or with the one that its publisher names"
_DAMAGED = "The file is damaged or of an unknown format; quantize the model again"
KNOWN_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""What a description may name: formats whose weight is codes times a scale."""


@dataclass(frozen=True)
class LayerDecoder:
    """What turns the codes of one layer into its weight.

    Attributes:
        scale: float32, ready to be multiplied with the codes: [], or [C_out, 1, ...]; one where the file has none. Of
            packed codes, float16 [C_out, groups]; of NVFP4, E4M3 [C_out, blocks].
        group: how many columns are rotated together; 1 is none.
        scale_key: where the scale stands; ``None`` where the file has none.
        side_keys: the names of the tensors beside the weight.
        shape: of the weight.
        bits: of a code; fewer than 8 are packed.
        factor: of NVFP4, what the scales are multiplied with; ``None`` in other formats.
    """

    scale: torch.Tensor
    scale_key: str | None
    group: int
    side_keys: tuple[str, ...]
    shape: tuple[int, ...]
    bits: int
    factor: float | None = None

    @property
    def largest_scale(self) -> float:
        """What no scale exceeds."""
        return float(self.scale.float().max()) * (1.0 if self.factor is None else self.factor)

    def dequantize(self, codes: torch.Tensor) -> torch.Tensor:
        """The weight, float32, not rotated."""
        return rotated(self.scaled(codes), self.group)

    def scaled(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes, as they are stored, times their scale: float32 in the shape of the weight."""
        if self.bits == 8:
            return codes.float().mul_(self.scale)
        return dequantize_packed(codes, self.scale, self.bits, self.shape, torch.float32, self.factor)


def decode_layer(
    keys: Container[str], read: Callable[[str], torch.Tensor], layer: str, shape: tuple[int, ...], where: Path | str
) -> LayerDecoder:
    """Read what stands beside a layer's codes. The codes are large, and are read when they are needed.

    Args:
        keys: the names of all tensors.
        read: gives a tensor by its name.
        layer: its key without ``.weight``; its weight is codes of this shape.
        where: the file, for errors.

    Errors: CheckpointError naming the layer, for a scale that cannot be one, and for a description that is not known.
    """
    side_keys = tuple(layer + suffix for suffix in (*SCALE_SUFFIXES, *MARKERS) if layer + suffix in keys)
    said = _description(read(layer + DESCRIPTION), layer, where) if layer + DESCRIPTION in side_keys else {}
    if layer + ROTATION in side_keys:
        said = {**said, **_rotation(read(layer + ROTATION))}
    scale_key = next((layer + suffix for suffix in SCALE_SUFFIXES if layer + suffix in keys), None)
    if said.get("format") == NVFP4:
        scale, factor = _checked_blocks(keys, read, layer, shape, where)
        return LayerDecoder(scale, scale_key, 1, side_keys, (shape[0], 2 * shape[1]), 4, factor)
    bits = PACKED_BITS.get(str(said.get("format")), 8)
    if bits < 8:
        scale = read(scale_key) if scale_key else torch.ones(())
        whole = _checked_packing(said, layer, shape, bits, scale, where)
        return LayerDecoder(scale, scale_key, 1, side_keys, whole, bits)
    # V1, or any plain FP8 file, has none.
    scale = checked_scale(scale_key, read(scale_key), shape, where) if scale_key else torch.ones(())
    return LayerDecoder(scale, scale_key, _group(said, layer, shape, where), side_keys, shape, 8)


def kind_of_codes(source: TensorSource, layer: str) -> str:
    """What people call the grid of a quantized weight, by its type, or by the description beside packed codes."""
    dtype = source.tensors[layer + WEIGHT].dtype
    if dtype != PACKED_DTYPE:
        return E4M3.name if dtype in FP8_DTYPES else INT8.name
    said = str(_parsed(source.tensor(layer + DESCRIPTION)).get("format", "unknown"))
    return f"INT{PACKED_BITS[said]}" if said in PACKED_BITS else E2M1.name if said == NVFP4 else said


def checked_scale(name: str, scale: torch.Tensor, shape: tuple[int, ...], where: Path | str) -> torch.Tensor:
    """A scale as float32, ready to be multiplied with a weight of that shape: [] or [C_out, 1, ...].

    Errors: CheckpointError when it is not a float of 16 bits or more, not positive and finite throughout, or neither
    one number nor one for each output channel.
    """
    if not scale.is_floating_point() or scale.element_size() < 2:
        raise CheckpointError(f"the scale {name} has the type {scale.dtype}", where=where, remedy=_DAMAGED)
    scale = scale.detach().to(torch.float32)
    if not bool((scale.isfinite() & (scale > 0)).all()):
        raise CheckpointError(f"the scale {name} is not a positive number", where=where, remedy=_DAMAGED)
    if scale.numel() == 1:
        return scale.reshape(())
    if shape and scale.numel() == scale.shape[0] == shape[0]:
        return scale.reshape(-1, *[1] * (len(shape) - 1))
    shapes = f"{list(scale.shape)} for a weight of {list(shape)}"
    raise CheckpointError(f"the scale {name} has the shape {shapes}", where=where, remedy=_DAMAGED)


def _description(description: torch.Tensor, layer: str, where: Path | str) -> dict[str, Any]:
    """What stands in it. Errors: CheckpointError for a description that is not known."""
    said = _parsed(description)
    if str(said.get("format")) not in (*KNOWN_FORMATS, *PACKED_BITS, NVFP4):
        raise _unknown(layer, where)
    return said


def _parsed(description: torch.Tensor) -> dict[str, Any]:
    """A description, or nothing for what is not a JSON object."""
    try:
        said = json.loads(bytes(description.flatten().to(torch.uint8).tolist()))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _rotation(stored: torch.Tensor) -> dict[str, Any]:
    """What int8's own tensor says, as a description would."""
    group = stored.flatten().tolist()
    return {"convrot": group != [1], "convrot_groupsize": group[0] if len(group) == 1 else None}


def _checked_packing(
    said: Mapping[str, Any], layer: str, stored: tuple[int, ...], bits: int, scale: torch.Tensor, where: Path | str
) -> tuple[int, ...]:
    """The weight's shape. Errors: CheckpointError where codes, scales and shape do not belong together."""
    shape = said.get("shape")
    if isinstance(shape, list) and len(shape) in LAYER_DIMENSIONS and all(type(n) is int and n > 0 for n in shape):
        columns = math.prod(shape[1:])
        fits = stored == (shape[0], packed_columns(columns, bits)) and said.get("group_size") == GROUP
        fits = fits and scale.dtype == torch.float16 and tuple(scale.shape) == (shape[0], groups_of(columns))
        if fits and bool((scale.isfinite() & (scale > 0)).all()):
            return tuple(shape)
    raise _not_together(layer, where)


def _checked_blocks(
    keys: Container[str], read: Callable[[str], torch.Tensor], layer: str, stored: tuple[int, ...], where: Path | str
) -> tuple[torch.Tensor, float]:
    """NVFP4's scales, E4M3 [C_out, blocks], and their factor. Errors: CheckpointError where parts do not fit."""
    if layer + ".pre_quant_scale" in keys:
        raise _unknown(layer, where)  # inputs are to be multiplied with it
    rows, columns = stored[0], 2 * stored[-1]
    names = (f"{layer}.weight_scale", layer + FACTOR)
    if len(stored) == 2 and columns % BLOCK == 0 and all(name in keys for name in names):
        scale, factor = (read(name) for name in names)
        scale = scale.view(E4M3.dtype) if scale.dtype == torch.uint8 else scale
        fits = scale.dtype == E4M3.dtype and tuple(scale.shape) == swizzled_shape(rows, blocks_of(columns))
        if fits and factor.dtype == torch.float32 and factor.numel() == 1 and 0 < float(factor) < math.inf:
            scale = unswizzled(scale, rows, blocks_of(columns))
            if bool((scale.float() >= 0).all()):  # NaN is not
                return scale, float(factor)
    raise _not_together(layer, where)


def _not_together(layer: str, where: Path | str) -> CheckpointError:
    return CheckpointError(
        f"the layer {layer} has codes, scales and a shape that do not belong together", where=where, remedy=_DAMAGED
    )


def _unknown(layer: str, where: Path | str) -> CheckpointError:
    return CheckpointError(
        f"the layer {layer} is quantized in a way that HSWQ does not know", where=where, remedy=_ANOTHER_READER
    )


def _group(said: Mapping[str, Any], layer: str, shape: tuple[int, ...], where: Path | str) -> int:
    """How many columns are rotated together; 1 is none. Errors: CheckpointError for a rotation that cannot be."""
    if not said.get("convrot"):
        return 1
    group = said.get("convrot_groupsize", 256)
    if len(shape) != 2 or group not in _GROUPS or shape[1] % group:
        raise CheckpointError(
            f"what stands beside {layer} cannot be (a weight of {list(shape)} is not rotated in groups of {group})",
            where=where,
            remedy="The file is damaged; quantize the model again",
        )
    return int(group)
