"""Layers of bitsandbytes: 4 bits with a table of values (QLoRA, appendix E), and 8 bits by row (LLM.int8).

``L.weight`` U8 [weights / 2, 1], the first of two codes in the high bits; ``L.weight.absmax``, the largest magnitude of
every block of so many weights of the flattened matrix; ``L.weight.quant_map``, the 16 values; and JSON as U8,
``L.weight.quant_state.bitsandbytes__nf4``. With double quantization, ``absmax`` is codes of a table of 256 itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from ...files.layers import WEIGHT
from ..kinds import BNB_FP4, BNB_INT8, BNB_NF4
from ..layer import CHANNEL, QuantizedLayer
from .stored import StoredTensors, count_in, shape_in, size_in

_KINDS = {".quant_state.bitsandbytes__nf4": BNB_NF4, ".quant_state.bitsandbytes__fp4": BNB_FP4}
_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_ROWS = ".SCB"
"""The largest magnitude of every row, of which 127 codes are."""


def read(tensors: StoredTensors) -> Iterator[QuantizedLayer]:
    """Layers in 4 and in 8 bits."""
    for ending, kind in _KINDS.items():
        for codes in tensors.with_suffix(ending):
            if codes not in tensors.left or not tensors.left[codes].shape:
                continue
            said, side = tensors.said(codes + ending), tensors.beside(codes, *_PARTS, ending)
            shape = _shape(tensors, codes, said) or (_count(tensors, codes), 1)
            yield QuantizedLayer(
                codes.removesuffix(WEIGHT), kind, shape, codes, side, tensors.nbytes(codes, *side),
                size_in(said, "blocksize", "unknown"),
                decode=partial(_weight, tensors, codes, said, shape), scale=partial(_largest, tensors, codes, said),
                largest_code=1.0,
            )  # fmt: skip
    for name in tensors.with_suffix(_ROWS):
        codes = name + WEIGHT
        if codes in tensors.left and tensors.left[codes].dtype == "I8" and len(tensors.left[codes].shape) == 2:
            side = tensors.beside(name, _ROWS, ".weight_format")
            scale = partial(_of_rows, tensors, name)
            yield QuantizedLayer(
                name, BNB_INT8, tensors.left[codes].shape, codes, side, tensors.nbytes(codes, *side), CHANNEL,
                decode=partial(_of_integers, tensors, name), scale=scale, largest_code=127.0, plain_codes=True,
            )  # fmt: skip


def _count(tensors: StoredTensors, codes: str) -> int:
    return 2 * tensors.left[codes].nbytes


def _shape(tensors: StoredTensors, codes: str, said: dict[str, Any]) -> tuple[int, ...]:
    """Of the weight; empty where the description has none that is filled by the codes, of which one may be left."""
    shape = shape_in(said)
    return shape if shape and _count(tensors, codes) - math.prod(shape) in (0, 1) else ()


def _largest(tensors: StoredTensors, codes: str, said: dict[str, Any]) -> torch.Tensor:
    """The largest magnitude of each block, float32 [blocks].

    Sizes are compared before anything is made of them: a description may hold any number.
    """
    if not _shape(tensors, codes, said):
        count = _count(tensors, codes)
        raise tensors.damaged(f"the layer {codes} has {count} codes, and its description no shape that they fill")
    blocks = -(-_count(tensors, codes) // count_in(said, "blocksize", 64))
    stored = tensors.tensor(f"{codes}.absmax")
    found = tensors.checked(lambda: stored, lambda shape: shape == (blocks,), codes)
    if stored.dtype != torch.uint8:
        return found
    names = (f"{codes}.nested_quant_map", f"{codes}.nested_absmax")
    table, outer = (tensors.tensor(name).float().flatten() for name in names)
    together = count_in(said, "nested_blocksize", 256)
    if len(table) != 256 or len(outer) != -(-blocks // together):
        raise tensors.damaged(f"the scales of {codes} do not belong together")
    offset = said.get("nested_offset", 0.0)
    found = table[stored.long()] * _repeated(outer, together, blocks) + (offset if isinstance(offset, float) else 0.0)
    return tensors.checked(lambda: found, lambda shape: shape == (blocks,), codes)


def _repeated(scales: torch.Tensor, block: int, count: int) -> torch.Tensor:
    """A scale for each of so many, given those of their blocks."""
    return scales.repeat_interleave(min(block, count))[:count]


def _weight(tensors: StoredTensors, codes: str, said: dict[str, Any], shape: tuple[int, ...]) -> torch.Tensor:
    largest = _largest(tensors, codes, said)
    packed = tensors.tensor(codes).flatten().view(torch.uint8).long()
    table = tensors.checked(lambda: tensors.tensor(f"{codes}.quant_map"), lambda found: found == (16,), codes)
    values = table[torch.stack([packed >> 4, packed & 15], dim=1).flatten()]
    values *= _repeated(largest, count_in(said, "blocksize", 64), len(values))
    return values[: math.prod(shape)].view(shape)


def _of_rows(tensors: StoredTensors, name: str) -> torch.Tensor:
    rows = tensors.left[name + WEIGHT].shape[0]
    return tensors.checked(lambda: tensors.tensor(name + _ROWS), lambda shape: shape == (rows,), name)[:, None] / 127


def _of_integers(tensors: StoredTensors, name: str) -> torch.Tensor:
    return tensors.tensor(name + WEIGHT).float() * _of_rows(tensors, name)
