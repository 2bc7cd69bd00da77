"""What a model is called with, as plain data: tensors, numbers, text, and lists, tuples and tables of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeAlias

import torch

from ..files.dtypes import TORCH_DTYPES

Argument: TypeAlias = Any
"""A tensor, number, text, ``None``, ``NotRecorded``, or a list, tuple or dict (by text) of arguments."""
_DTYPES = frozenset(TORCH_DTYPES.values())
_MAX_DEPTH = 8


@dataclass(frozen=True)
class NotRecorded:
    """Stands for an argument that is not plain data. Attributes: kind: what it was."""

    kind: str


def recorded(value: object, depth: int = 0) -> Argument:
    """The same as plain data, its tensors detached but not copied; what is not plain data becomes ``NotRecorded``."""
    if isinstance(value, torch.Tensor):
        plain = value.dtype in _DTYPES and value.layout == torch.strided
        return value.detach() if plain else NotRecorded(f"a tensor of {value.dtype}")
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if depth < _MAX_DEPTH:
        if type(value) in (list, tuple):
            return type(value)(recorded(each, depth + 1) for each in value)  # type: ignore[call-arg,attr-defined]
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: recorded(each, depth + 1) for key, each in value.items()}
    return NotRecorded(type(value).__name__)


def layer_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """What a layer is called with, by position or by keyword: its first argument."""
    if args:
        return args[0]  # type: ignore[no-any-return]
    return kwargs["input"] if "input" in kwargs else next(iter(kwargs.values()))  # type: ignore[no-any-return]


def map_tensors(value: Argument, change: Callable[[torch.Tensor], torch.Tensor]) -> Argument:
    """The same with every tensor changed."""
    return change(value) if isinstance(value, torch.Tensor) else rebuilt(value, lambda each: map_tensors(each, change))


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same list, tuple, dict or dataclass with its contents changed; anything else as it is."""
    if type(value) in (list, tuple):
        return type(value)(change(each) for each in value)
    if type(value) is dict:
        return {key: change(each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: change(getattr(value, field.name)) for field in fields(value)})
    return value


def leaves(value: Argument) -> Iterator[Argument]:
    """Everything in it that is not a list, tuple or dict."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def tensors_of(value: Argument) -> list[torch.Tensor]:
    """Its tensors, in order."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)]


def joined(values: list[Argument], batch: int, parts: int) -> Argument:
    """Arguments of as many calls as one call's: tensors that have the batch as their first dimension one after another.

    Args:
        batch: images of each call, in so many parts (prompt and negative prompt); a part of all calls is together.

    Errors: ValueError when what has no batch is not the same in all calls.
    """
    first = values[0]
    if any(type(each) is not type(first) for each in values):
        raise ValueError("of different types")
    if isinstance(first, torch.Tensor):
        if any(each.shape != first.shape or each.dtype != first.dtype for each in values):
            raise ValueError("of different shapes")
        if first.dim() and len(first) == batch:
            return torch.cat([each.unflatten(0, (parts, batch // parts)) for each in values], 1).flatten(0, 1)
        same = all(torch.equal(each, first) for each in values[1:])
    elif isinstance(first, (list, tuple)):
        return type(first)(joined(list(each), batch, parts) for each in zip(*values, strict=True))
    elif isinstance(first, dict):
        if any(each.keys() != first.keys() for each in values):
            raise ValueError("of different keys")
        return {key: joined([each[key] for each in values], batch, parts) for key in first}
    else:
        same = all(each == first for each in values[1:])
    if not same:
        raise ValueError("of different values")
    return first
