"""One [[outputs]] of a recipe: the options of ``hswq quantize``, each checked apart, so that every mistake is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, create_model, field_validator

from hswq_core.errors import HSWQError
from hswq_core.options import QuantizeOptions

from .lines import Mistake

_MODE_OF = {"rotate": "comfy-int8"}
"""In which mode a key may have any of its values; v2 for the others."""


class _Output(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any, info: ValidationInfo) -> Any:
        key = str(info.field_name)
        _check({"mode": _MODE_OF.get(key, "v2"), key: value})  # whether it is a value of this key at all
        if "mode" in info.data:
            _check({"mode": info.data["mode"], key: value})  # and one of this mode
        return value


_OPTIONS: dict[str, Any] = {field.name: (Any, field.default) for field in fields(QuantizeOptions)}
Output = create_model("Output", __base__=_Output, **_OPTIONS)


def read_output(table: Any) -> QuantizeOptions:
    """Errors: pydantic's ValidationError with every key that is wrong."""
    return QuantizeOptions(**Output.model_validate(table).model_dump(exclude_unset=True))


def rows_missing(outputs: Sequence[QuantizeOptions], rows: int) -> list[Mistake]:
    """What is asked for without the rows that it needs."""
    asked = ((n, key, getattr(options, key)) for n, options in enumerate(outputs) for key in ("rounding", "rotate"))
    return [
        (("outputs", number, key), f"{key} = {value!r} needs sampled rows, and rows_per_layer is 0")
        for number, key, value in asked
        if not rows and value in ("calibrated", True)
    ]


def _check(options: dict[str, Any]) -> None:
    try:
        QuantizeOptions(**options)
    except HSWQError as error:
        raise ValueError(f"{error.what}. {error.remedy}") from error
