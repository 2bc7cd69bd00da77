"""What a statistics file must hold, checked once when it is opened: later it would spoil a model or a session.

Everything here raises ValueError with what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import torch

from .rows import StoredRows, all_finite

_MAX_COUNT = 1 << 60  # more than anyone can count
_MAX_MEAN = 1e36
_MEANS = ("importance", "mean", "second_moment")


def parse_json(metadata: Mapping[str, str], key: str, default: Any) -> Any:
    """The JSON among the metadata, or the default where there is none."""
    if key not in metadata:
        return default
    try:
        return json.loads(metadata[key])
    except RecursionError:
        raise ValueError(f"{key} is nested too deeply") from None


def parse_count(metadata: Mapping[str, str], key: str) -> int:
    """A count among the metadata."""
    text = metadata.get(key, "")
    if not (text.isdecimal() and text.isascii() and len(text) <= 19 and int(text) <= _MAX_COUNT):
        raise ValueError(f"{key} is not a count: {text[:40]!r}")
    return int(text)


def parse_counts(metadata: Mapping[str, str], key: str, length: int) -> tuple[int, ...]:
    """A list of counts; zeros where there is none."""
    found = parse_json(metadata, key, [0] * length)
    if not isinstance(found, list) or len(found) != length or not all(_is_count(value) for value in found):
        raise ValueError(f"{key} is not a list of {length} counts")
    return tuple(found)


def parse_names(metadata: Mapping[str, str], key: str) -> list[str]:
    """A list of names."""
    found = parse_json(metadata, key, [])
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise ValueError(f"{key} is not a list of names")
    return found


def parse_counts_by_name(metadata: Mapping[str, str], key: str) -> dict[str, int]:
    found = parse_json(metadata, key, {})
    if not isinstance(found, dict) or not all(_is_count(value) for value in found.values()):
        raise ValueError(f"{key} is not a table of counts")
    return found


def parse_names_by_name(metadata: Mapping[str, str], key: str) -> dict[str, str]:
    found = parse_json(metadata, key, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"{key} is not a table of names")
    return found


def parse_shares_by_name(metadata: Mapping[str, str], key: str) -> dict[str, float]:
    found = parse_json(metadata, key, {})
    if not isinstance(found, dict) or not all(type(v) in (int, float) and 0 <= v <= 1 for v in found.values()):
        raise ValueError(f"{key} is not a table of shares")
    return found


def parse_shapes_by_name(metadata: Mapping[str, str], key: str) -> dict[str, tuple[int, ...]]:
    found = parse_json(metadata, key, {})
    if not isinstance(found, dict):
        raise ValueError(f"{key} is not a table of shapes")
    for shape in found.values():
        if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(size) for size in shape):
            raise ValueError(f"{key} is not a table of shapes")
    return {name: tuple(shape) for name, shape in found.items()}


def parse_layer(name: str, tensors: Mapping[str, torch.Tensor]) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Input rows, means [3, C_in] and output sums [3] of one layer."""
    group = {part: tensors.get(f"{name}.{part}") for part in (*_MEANS, "output", "count")}
    if any(tensor is None or not tensor.dtype.is_floating_point for tensor in group.values()):
        raise ValueError(f"{name}: a part is missing, or not a number")
    found = {part: cast(torch.Tensor, tensor).double() for part, tensor in group.items()}
    channels = found["importance"].shape
    if len(channels) != 1 or not channels[0] or any(found[part].shape != channels for part in _MEANS):
        raise ValueError(f"{name}: the means are of different shapes")
    if found["count"].numel() != 1 or found["output"].shape != (3,):
        raise ValueError(f"{name}: the counts have another shape")
    means = torch.stack([found[part] for part in _MEANS])
    (lowest, highest), rows = (each.tolist() for each in means.aminmax(dim=1)), float(found["count"].item())
    count, mean, square = found["output"].tolist()
    if not all(map(math.isfinite, (*lowest, *highest, rows, count, mean, square))):
        raise ValueError(f"{name}: NaN or infinity")
    if not 1 <= rows <= _MAX_COUNT or not 1 <= count <= _MAX_COUNT:
        raise ValueError(f"{name}: counts must be from 1 to 2^60")
    smallest = dict(zip(_MEANS, lowest, strict=True))
    if min(square, smallest["importance"], smallest["second_moment"]) < 0:
        raise ValueError(f"{name}: a mean of magnitudes or squares is negative")
    if not mean * mean <= square * 1.001 + 1e-30 or max(map(abs, (*lowest, *highest))) > _MAX_MEAN:
        raise ValueError(f"{name}: the means contradict each other, or are beyond any activation")
    if not math.isfinite(square * count):
        raise ValueError(f"{name}: the sums are too large")
    return int(rows), means, torch.tensor([count, mean * count, square * count], dtype=torch.float64)


def rows_of_owner(owner: str, stored: Mapping[str, StoredRows]) -> StoredRows | None:
    """The whole patches of a layer, or the rows where it has no others."""
    return stored.get(f"{owner}.patches", stored.get(f"{owner}.rows"))


def parse_rows(name: str, owner: str, channels: int, stored: Mapping[str, StoredRows]) -> StoredRows | None:
    """The sampled inputs of a layer, which may be those of another one with the same input."""
    found = rows_of_owner(owner, stored)
    if found is None:
        if owner != name:
            raise ValueError(f"{name}: the layer {owner} has no rows to share")
        return None
    if not found.shape[1] or found.shape[1] % channels:
        raise ValueError(f"{name}: the rows have another shape")
    if owner == name and not all_finite(found.tensor()):
        raise ValueError(f"{name}: NaN or infinity in the rows")
    return found


def parse_impacts(name: str, tensors: Mapping[str, torch.Tensor], purposes: list[str]) -> dict[str, float]:
    """Measured impacts by purpose; NaN stands for what was not measured."""
    stored = tensors.get(f"{name}.impact")
    values = [] if stored is None else stored.flatten().tolist()
    if values and len(values) != len(purposes):
        raise ValueError(f"{name}: {len(values)} impacts for {len(purposes)} purposes")
    measured = {p: float(v) for p, v in zip(purposes, values, strict=False) if not math.isnan(v)}
    if not all(0 <= value < math.inf for value in measured.values()):
        raise ValueError(f"{name}: an impact is negative or infinite")
    return measured


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT
