"""What a quantized file says of itself, in the words of a model card."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..files.checkpoint import CheckpointReader
from ..files.decode import decode_layer
from ..files.dtypes import BITS
from ..files.inspection import inspect_checkpoint
from ..files.layers import WEIGHT
from ..files.modelspec import original_title
from ..formats import FORMATS
from ..formats.stored_layer import DESCRIPTION, MARKERS, PACKED_DTYPE, SCALE_SUFFIXES, is_quantized
from ..planning.plan import KEPT
from .licences import licence_of


@dataclass(frozen=True)
class Facts:
    """A quantized file.

    Attributes:
        title: its own.
        mode: the format.
        bytes, original_bytes: of the file, and of its tensors in 16 bits.
        quantized, kept: layers.
        grid: what the quantized ones are in.
        lines: how it was made, by name.
        base: what it was made from, as far as the file says.
        licence: what the file says, which has that of the original: an identifier, and its own words, if others.
    """

    file: str
    title: str
    mode: str
    architecture: str
    bytes: int
    original_bytes: int
    quantized: int
    kept: int
    grid: str
    lines: tuple[tuple[str, str], ...]
    base: str
    licence: tuple[str, str]


def facts_of(path: Path) -> Facts:
    """Errors: CheckpointError for a file that HSWQ did not quantize."""
    with CheckpointReader(path) as reader:
        found, said = inspect_checkpoint(reader), reader.metadata
        if said.get("hswq.kind") != "checkpoint" or said.get("hswq.mode") not in FORMATS:
            raise CheckpointError(
                "this file was not quantized by HSWQ", where=path, remedy="Choose one that HSWQ Quantize wrote"
            )
        prefix = found.diffusion_model_prefix
        original = sum(
            2 * _elements(reader, key) if BITS[info.dtype] <= 8 and key.startswith(prefix) else info.nbytes
            for key, info in reader.tensors.items()
            if not _is_beside(reader, key)
        )
    mode = said["hswq.mode"]
    kept = said.get("hswq.kept_layers", "[]")
    lines = [
        ("format", mode),
        ("layers kept", f"{len(json.loads(kept))} of {len(found.quantized) + len(found.unquantized)}"),
        ("chosen by", said.get("hswq.selection", "")),
        ("budget", said.get("hswq.budget", "")),
        ("keep ratio", said.get("hswq.keep_ratio", "")),
        ("bits", _bits_in_words(said.get("hswq.layers_by_form", ""))),
        ("predicted error", said.get("hswq.predicted_error", "")),
        ("rounding", said.get("hswq.rounding", "")),
        ("scales", said.get("hswq.scales", "")),
        ("inputs", "rotated where it is more exact" if "hswq.rotate" in said else ""),
        ("statistics", said.get("hswq.statistics_fingerprint", "")),
        ("made with", f"HSWQ {said.get('hswq.tool_version', '')}".strip()),
    ]
    return Facts(
        file=path.name,
        title=said.get("modelspec.title", path.stem),
        mode=mode,
        architecture=said.get("modelspec.architecture", "unknown"),
        bytes=found.bytes,
        original_bytes=original,
        quantized=len(found.quantized),
        kept=len(found.unquantized),
        grid=found.grid,
        lines=tuple((name, value) for name, value in lines if value),
        base=said.get("modelspec.base_model", "") or original_title(said),
        licence=licence_of(said),
    )


def _bits_in_words(layers_by_form: str) -> str:
    """ "79 layers in int6, 61 in int8"."""
    counts = json.loads(layers_by_form or "{}")
    return ", ".join(f"{count} layers in {form}" if form != KEPT else f"{count} kept" for form, count in counts.items())


def _is_beside(reader: CheckpointReader, key: str) -> bool:
    """Whether a tensor belongs to how a layer is quantized."""
    suffix = next((suffix for suffix in (*SCALE_SUFFIXES, *MARKERS) if key.endswith(suffix)), None)
    layer = key.removesuffix(suffix or "")
    weight = reader.tensors.get(layer + WEIGHT)
    return suffix is not None and weight is not None and is_quantized(reader.tensors, layer, weight.dtype)


def _elements(reader: CheckpointReader, key: str) -> int:
    """How many values a tensor stands for: of packed codes, as many as the weight has."""
    info, layer = reader.tensors[key], key.removesuffix(WEIGHT)
    if info.dtype != PACKED_DTYPE or not key.endswith(WEIGHT) or layer + DESCRIPTION not in reader.tensors:
        return info.numel
    return math.prod(decode_layer(reader.tensors, reader.tensor, layer, info.shape, reader.path).shape)
