"""One [[outputs]] of a recipe: the options of ``hswq quantize``, each checked apart, so that every mistake is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, create_model, field_validator

from hswq_core.errors import HSWQError
from hswq_core.options import QuantizeOptions
from hswq_core.recipes import CUSTOM, options_of_recipe, recipe_fields

from .lines import Mistake

_MODE_OF = {"rotate": "comfy-int8"}
"""In which mode a key may have any of its values; v2 for the others."""


class _Output(BaseModel):
    model_config = ConfigDict(extra="forbid")

    recipe: Any = CUSTOM

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any, info: ValidationInfo) -> Any:
        key = str(info.field_name)
        if key == "recipe":
            with as_value_error():
                recipe_fields(value)
            return value
        _check({"mode": _MODE_OF.get(key, "v2"), key: value})  # whether it is a value of this key at all
        if "mode" in info.data and info.data.get("recipe") == CUSTOM:
            _check({"mode": info.data["mode"], key: value})  # and one of this mode
        return value


_OPTIONS: dict[str, Any] = {field.name: (Any, field.default) for field in fields(QuantizeOptions)}
Output = create_model("Output", __base__=_Output, **_OPTIONS)


def read_output(table: Any) -> QuantizeOptions:
    """Errors: pydantic's ValidationError with every key that is wrong."""
    given = Output.model_validate(table).model_dump(exclude_unset=True)
    with as_value_error():
        return options_of_recipe(given.pop("recipe", CUSTOM), given)


def rows_missing(outputs: Sequence[QuantizeOptions], rows: int) -> list[Mistake]:
    """What is asked for without the rows that it needs."""
    asked = ((n, key, getattr(options, key)) for n, options in enumerate(outputs) for key in ("rounding", "rotate"))
    return [
        (("outputs", number, key), f"{key} = {value!r} needs sampled rows, and rows_per_layer is 0")
        for number, key, value in asked
        if not rows and value in ("calibrated", True)
    ]


def _check(options: dict[str, Any]) -> None:
    with as_value_error():
        QuantizeOptions(**options)


@contextmanager
def as_value_error(key: str = "") -> Iterator[None]:
    """An error of the core as pydantic takes it. Args: key: what it is of, where the message does not say."""
    try:
        yield
    except HSWQError as error:
        raise ValueError(f"{key and f'{key}: '}{error.what}. {error.remedy}") from error
