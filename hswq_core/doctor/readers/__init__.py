"""Readers of quantized layers, one file for each tool that writes them.

A reader looks at what those before it have left, and yields the layers that it knows. A new kind is a function here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...files.checkpoint import CheckpointReader
from ..layer import QuantizedLayer
from . import bitsandbytes, described, eight_bits, llm, nunchaku, quanto, torchao
from .stored import StoredTensors

Reader = Callable[[StoredTensors], Iterator[QuantizedLayer]]
READERS: tuple[Reader, ...] = (
    bitsandbytes.read,
    nunchaku.read,
    torchao.read,
    quanto.read,
    llm.read,
    described.read,
    eight_bits.read,  # takes what is left, and names what it does not know
)


def quantized_layers(source: CheckpointReader) -> dict[str, QuantizedLayer]:
    """The quantized layers of a safetensors file, by name. Reads descriptions, and of other tensors the header."""
    left = dict(source.tensors)
    found: dict[str, QuantizedLayer] = {}
    for read in READERS:
        for layer in read(StoredTensors(source, dict(left))):
            found[layer.name] = layer
            for key in (layer.codes, *layer.side):
                left.pop(key, None)
    return dict(sorted(found.items()))
