"""The header of a safetensors file, checked against the file before anything is read from it.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import TypeGuard

from ..errors import CheckpointError
from .dtypes import BITS
from .source import TensorInfo

MAX_HEADER = 100_000_000
"""Bytes, as the safetensors library has it. SDXL's header has 0.3 MB; trainers write megabytes of text into it."""
_MAX_STRUCTURE = 25_000_000
"""What may be left of a header without its long texts: read as JSON, small objects take 30 times their bytes."""
_LONG = 4096
_MAX_DIMENSIONS = 16
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_TEXTS = re.compile(rb'"[^"]*"')


def read_header(file: BufferedReader, path: Path) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    """The tensors by name, the metadata, and where in the file the data begins.

    Errors: CheckpointError for a file that is not safetensors, truncated or inconsistent.
    """
    remedy = "Only safetensors checkpoints can be opened; download it again if it should be one"
    if path.suffix.lower() in PICKLED:
        remedy = "Load it in ComfyUI and connect the MODEL to HSWQ Quantize, or save it as safetensors"

    def bad(what: str) -> CheckpointError:
        return CheckpointError(what, where=path, remedy=remedy)

    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > max(size, MAX_HEADER):
        raise bad("this is not a safetensors file")
    if length > MAX_HEADER:
        raise bad(f"the header has {length:,} bytes, and safetensors allows {MAX_HEADER:,}")
    if 8 + length > size:
        raise bad("the file is truncated: it ends inside its header")
    encoded = file.read(length)
    if not _has_form_of_header(encoded):
        raise bad("this is not a safetensors file: its header is not a list of tensors, or is longer than any model's")
    try:
        header = json.loads(encoded.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise bad("this is not a safetensors file: its header is not JSON, or names a tensor twice") from error
    if not isinstance(header, dict):
        raise bad("this is not a safetensors file: its header is not a JSON object")
    metadata = header.pop("__metadata__", {}) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise bad("the header's metadata is not text")
    try:
        "".join([*header, *metadata, *metadata.values()]).encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad("the header is damaged: a name in it is not text") from error

    data_start, available = 8 + length, size - 8 - length
    tensors = {name: _tensor_info(name, entry, bad) for name, entry in header.items()}
    expected = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != expected:
            raise bad(f"the header is damaged: tensor {name} does not begin where the one before it ends")
        expected = info.end
    if expected > available:
        raise bad(f"the file is truncated: {expected:,} bytes of tensors are announced, {available:,} are there")
    if expected < available:
        raise bad(f"the header is damaged: {available - expected:,} bytes belong to no tensor")
    return tensors, metadata, data_start


def _has_form_of_header(encoded: bytes) -> bool:
    """Whether brackets come as in a list of tensors: JSON of brackets alone takes 30 times its bytes.

    Every tensor is one object with two lists; two more objects are the header and its metadata. Long texts may be
    megabytes, everything else may not.
    """
    # Without what is escaped, in this order, a text ends at its next quotation mark.
    plain = encoded.replace(b"\\\\", b"").replace(b'\\"', b"")
    objects = lists = end = texts = 0
    for text in _TEXTS.finditer(plain):
        objects += plain.count(b"{", end, text.start())
        lists += plain.count(b"[", end, text.start())
        end, length = text.end(), text.end() - text.start()
        texts += length if length > _LONG else 0
        if lists > 2 * objects or 2 * objects > lists + 6 or end - texts > _MAX_STRUCTURE:
            return False
    objects, lists = objects + plain.count(b"{", end), lists + plain.count(b"[", end)
    return lists <= 2 * objects <= lists + 6 and len(plain) - texts <= _MAX_STRUCTURE


def _tensor_info(name: str, entry: object, bad: Callable[[str], CheckpointError]) -> TensorInfo:
    damaged = bad(f"the header is damaged at tensor {name}")
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise damaged
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS or not _naturals(span) or len(span) != 2:
        raise damaged
    if (span[1] - span[0]) * 8 != math.prod(shape) * BITS[dtype]:
        raise bad(f"the header is damaged: tensor {name} does not have the size of its shape")
    return TensorInfo(dtype, tuple(shape), span[0], span[1])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)
