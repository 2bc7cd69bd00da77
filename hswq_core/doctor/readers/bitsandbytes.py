"""Layers of bitsandbytes: 4 bits with a table of values (QLoRA, appendix E), and 8 bits by row (LLM.int8).

``L.weight`` U8 [weights / 2, 1], the first of two codes in the high bits; ``L.weight.absmax``, the largest magnitude of
every block of so many weights of the flattened matrix; ``L.weight.quant_map``, the 16 values; and JSON as U8,
``L.weight.quant_state.bitsandbytes__nf4``. With double quantization, ``absmax`` is codes of a table of 256 itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from ...files.layers import WEIGHT
from ..kinds import BNB_FP4, BNB_INT8, BNB_NF4
from ..layer import CHANNEL, QuantizedLayer
from .stored import StoredTensors, count_in, shape_in

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
            shape = shape_in(said) or tensors.left[codes].shape
            yield QuantizedLayer(
                codes.removesuffix(WEIGHT), kind, shape, codes, side, tensors.nbytes(codes, *side),
                str(said.get("blocksize", "unknown")),
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


def _largest(tensors: StoredTensors, codes: str, said: dict[str, Any]) -> torch.Tensor:
    """The largest magnitude of each block, float32 [blocks]."""
    found = tensors.tensor(f"{codes}.absmax")
    if found.dtype == torch.uint8:
        table, outer = (tensors.tensor(f"{codes}.{part}").float() for part in ("nested_quant_map", "nested_absmax"))
        outer = outer.repeat_interleave(count_in(said, "nested_blocksize", 256))[: len(found)]
        if len(table) != 256 or len(outer) != len(found):
            raise tensors.damaged(f"the scales of {codes} do not belong together")
        offset = said.get("nested_offset", 0.0)
        found = table[found.long()] * outer + (offset if isinstance(offset, float) else 0.0)
    blocks = -(-2 * tensors.left[codes].numel // count_in(said, "blocksize", 64))
    return tensors.checked(lambda: found, lambda shape: shape == (blocks,), codes)


def _weight(tensors: StoredTensors, codes: str, said: dict[str, Any], shape: tuple[int, ...]) -> torch.Tensor:
    largest = _largest(tensors, codes, said)
    packed = tensors.tensor(codes).flatten().view(torch.uint8).long()
    table = tensors.checked(lambda: tensors.tensor(f"{codes}.quant_map"), lambda found: found == (16,), codes)
    values = table[torch.stack([packed >> 4, packed & 15], dim=1).flatten()]
    values *= largest.repeat_interleave(count_in(said, "blocksize", 64))[: len(values)]
    count = torch.Size(shape).numel()
    if len(values) < count:
        raise tensors.damaged(f"the layer {codes} has {len(values)} codes for a weight of {list(shape)}")
    return values[:count].view(shape)


def _of_rows(tensors: StoredTensors, name: str) -> torch.Tensor:
    rows = tensors.left[name + WEIGHT].shape[0]
    return tensors.checked(lambda: tensors.tensor(name + _ROWS), lambda shape: shape == (rows,), name)[:, None] / 127


def _of_integers(tensors: StoredTensors, name: str) -> torch.Tensor:
    return tensors.tensor(name + WEIGHT).float() * _of_rows(tensors, name)
