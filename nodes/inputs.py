"""Checks that a node's inputs have the types that its sockets name, and raises one clear error if not.

ComfyUI checks numbers and choices of fields. It does not check what reaches a socket, or what another node gives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from ..hswq_core.calibration.session import CalibrationSession
from ..hswq_core.calibration.statistics import Statistics
from ..hswq_core.errors import PlanError, is_printable

Execute = TypeVar("Execute", bound=Callable[..., Any])


def checked(execute: Execute) -> Execute:
    """A node's ``execute`` that raises PlanError for an input of another type than its schema says."""

    @functools.wraps(execute)
    def run(cls: Any, **given: Any) -> Any:
        _check(cls.define_schema(), given)
        return execute(cls, **given)

    return run  # type: ignore[return-value]


def _check(schema: Any, given: Mapping[str, Any]) -> None:
    for socket in schema.inputs:
        value: Any = given.get(socket.id)
        if value is None and (socket.optional or socket.id not in given):
            continue
        kind = socket.get_io_type()
        what, fits = _KINDS.get(kind, ("", _anything))
        where = f"{schema.display_name}, {socket.display_name or socket.id}"
        if not fits(value):
            raise PlanError(
                f"this is to be {what}, and is {_named(value)}", where=where, remedy=f"Connect or type {what}"
            )
        # A path may have a name that is not UTF-8, as the system gives it; what a user types has no half characters.
        if kind == "STRING" and not getattr(socket, "force_input", False) and not is_printable(str(value)):
            raise PlanError(f"{value!r} holds half of a character", where=where, remedy="Type it again")


def _named(value: object) -> str:
    shown = isinstance(value, (str, int, float, list, dict))
    return f"{value!r:.60}" if shown else f"of the type {type(value).__name__}"


def _anything(_value: object) -> bool:
    return True


def _has(*names: str) -> Callable[[object], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "MODEL": ("a MODEL", _has("model", "patches", "clone")),
    "CLIP": ("a CLIP", _has("tokenize", "patcher")),
    "VAE": ("a VAE", _has("decode")),
    "CLIP_VISION": ("a CLIP_VISION", _has("encode_image")),
    "HSWQ_STATS": ("statistics", lambda value: isinstance(value, (CalibrationSession, Statistics))),
    "IMAGE": ("an IMAGE", lambda value: isinstance(value, torch.Tensor) and value.dim() == 4),
    "LATENT": ("a LATENT", lambda value: isinstance(value, Mapping) and "samples" in value),
    "STRING": ("text", lambda value: isinstance(value, str)),
    "COMBO": ("one of the choices", lambda value: isinstance(value, str)),
    "INT": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "FLOAT": ("a number", _is_number),
    "BOOLEAN": ("true or false", lambda value: isinstance(value, bool)),
}
