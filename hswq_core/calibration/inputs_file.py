"""The model's own inputs in a statistics file: tensors as ``inputs.<n>``, and a description of every call as JSON.

A description has an entry for each argument. A tensor is its key as text; what else there is, is a table with one
entry: ``value`` (a number, text or null), ``list``, ``tuple``, ``dict``, or ``not_recorded`` (what it was).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .arguments import Argument, NotRecorded
from .model_inputs import ModelInput

_MAX_DEPTH = 16


def stored_inputs(inputs: Sequence[ModelInput]) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The tensors by key, each one once, and the description of every input."""
    named: dict[int, tuple[str, torch.Tensor]] = {}

    def described(value: Argument) -> Any:
        if isinstance(value, torch.Tensor):
            return named.setdefault(id(value), (f"inputs.{len(named)}", value))[0]
        if isinstance(value, NotRecorded):
            return {"not_recorded": value.kind}
        if isinstance(value, dict):
            return {"dict": {key: described(each) for key, each in value.items()}}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [described(each) for each in value]}
        return {"value": value}

    descriptions = [{name: described(value) for name, value in entry.items()} for entry in inputs]
    return {key: tensor.contiguous() for key, tensor in named.values()}, descriptions


def checked_inputs(descriptions: Any, tensors: Mapping[str, torch.Tensor]) -> list[ModelInput]:
    """The inputs as they were. Errors: ValueError for bad descriptions, and for values that are not finite."""
    if not isinstance(descriptions, list) or not all(isinstance(entry, dict) for entry in descriptions):
        raise ValueError("hswq.inputs is not a list of calls")
    return [{name: _argument(value, tensors) for name, value in entry.items()} for entry in descriptions]


def _argument(described: Any, tensors: Mapping[str, torch.Tensor], depth: int = 0) -> Argument:
    if isinstance(described, str):
        if described not in tensors:
            raise ValueError("hswq.inputs names tensors that are not there")
        tensor = tensors[described]
        if tensor.dtype.is_floating_point and not bool(tensor.isfinite().all()):
            raise ValueError("an input of the model holds NaN or infinity")
        return tensor
    if not isinstance(described, dict) or len(described) != 1 or depth > _MAX_DEPTH:
        raise ValueError("hswq.inputs describes an argument in an unknown way")
    ((kind, content),) = described.items()
    if kind == "value" and (content is None or isinstance(content, (bool, int, float, str))):
        return content
    if kind == "not_recorded" and isinstance(content, str):
        return NotRecorded(content)
    if kind in ("list", "tuple") and isinstance(content, list):
        parts = [_argument(each, tensors, depth + 1) for each in content]
        return parts if kind == "list" else tuple(parts)
    if kind == "dict" and isinstance(content, dict):
        return {key: _argument(each, tensors, depth + 1) for key, each in content.items()}
    raise ValueError("hswq.inputs describes an argument in an unknown way")
