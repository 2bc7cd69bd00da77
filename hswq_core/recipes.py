"""Recipes: options that belong together, each set for one purpose. Node, page, command line and farm take them from
here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import PlanError
from .formats import INT8_FORMAT, MIXED, V1
from .options import MODEL_CARD_OPTIONS, QuantizeOptions, check_choice

CUSTOM = "custom"
"""No recipe: the options are what they are."""
DEFAULT_RECIPE = "best quality"
"""What a new node starts with: of the files of one size, this one has the least error (docs/benchmarks.md)."""


def _fields(mode: str, **other: object) -> dict[str, Any]:
    usual = {"selection": "measured", "rounding": "calibrated", "scales": "tensor", "rotate": False, "target": ""}
    return {"mode": mode, **usual, **other}


RECIPES: Mapping[str, Mapping[str, Any]] = {
    DEFAULT_RECIPE: _fields(INT8_FORMAT.name),
    # At the knee of its own curve, so nothing else may say how large it is.
    "smallest good": _fields(MIXED.name, budget=""),
    # Every loader that knows FP8 opens v1.
    "for everyone": _fields(V1.name),
    "fast": _fields(INT8_FORMAT.name, rotate=True),
    "HSWQ model card": _fields(
        MODEL_CARD_OPTIONS.mode, selection=MODEL_CARD_OPTIONS.selection, rounding=MODEL_CARD_OPTIONS.rounding
    ),
    CUSTOM: {},
}
"""What each recipe decides, by its name. What it does not decide stays free, as the keep ratio does in most."""


def recipe_fields(name: str) -> Mapping[str, Any]:
    """The options that a recipe decides, by their names in ``QuantizeOptions``.

    Args:
        name: in any case, with blanks or hyphens: "best quality", "best-quality".

    Errors: PlanError for a name that is not a recipe's, with the recipes that there are.
    """
    by_plain_name = {_plain(known): known for known in RECIPES}
    return RECIPES[check_choice("recipe", by_plain_name.get(_plain(name), name), tuple(RECIPES))]


def options_of_recipe(name: str, values: Mapping[str, Any]) -> QuantizeOptions:
    """The options of a recipe, and what is chosen beside it.

    Args:
        values: options by name. One that the recipe decides may be among them if it says the same.

    Errors: PlanError for an unknown recipe, a value that contradicts it, or values that do not fit together.
    """
    fixed = recipe_fields(name)
    for field, value in values.items():
        if field in fixed and fixed[field] != value:
            raise PlanError(
                f"the recipe {name!r} has {field} {fixed[field]!r}, and {value!r} is asked for",
                remedy=f"Leave {field} out, or choose the options without a recipe",
            )
    return QuantizeOptions(**{**values, **fixed})


def _plain(name: object) -> str:
    return str(name).replace("-", " ").replace("_", " ").casefold().strip()
