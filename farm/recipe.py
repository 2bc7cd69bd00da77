"""A recipe from a TOML file, checked as a whole before anything starts: every mistake is told, with its line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import tomllib
from pydantic import BaseModel, ValidationError

from hswq_core.errors import HSWQError, nearest_name

from .comfyui_names import AskNames, wrong_names
from .headers import mistakes_in_headers
from .lines import Lines, Mistake, Place
from .outputs import Output, rows_missing
from .tables import LISTS, Calibration, Card, Proof, Recipe, Sensitivity

_TABLES: dict[str, type[BaseModel]] = {
    "calibration": Calibration, "sensitivity": Sensitivity, "outputs": Output, "proof": Proof, "card": Card,
}  # fmt: skip
_WANTED = {"string_type": "a text", "bool_type": "true or false"}


class RecipeError(HSWQError):
    """A recipe that cannot be carried out; ``what`` has a line for each mistake."""


def read_recipe(path: Path, ask: AskNames | None = None) -> Recipe:
    """A recipe that was checked against the headers of its checkpoints. Paths in it are relative to its folder.

    Args:
        ask: gives the names of samplers and schedulers, from the arguments of ComfyUI; without it, any name is taken.

    Errors: RecipeError that names every mistake with its line.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe cannot be read ({error})", where=path, remedy="Give a TOML file") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"this is no TOML: {error}", where=path, remedy="See docs/farm.md for an example") from error
    recipe, mistakes = _validated({"checkpoints": [], "outputs": []} | data, path.resolve().parent)
    mistakes += _mistakes_of_the_whole(recipe, ask)
    if mistakes:
        lines = Lines(text)
        told = sorted({(lines.of(place), what) for place, what in mistakes})
        listed = "\n".join(f"  line {line}: {what}" for line, what in told)
        raise RecipeError(f"{len(told)} mistakes:\n{listed}", where=path, remedy="See docs/farm.md for all keys")
    return recipe


def _validated(data: dict[str, Any], base: Path) -> tuple[Recipe, list[Mistake]]:
    """What is wrong is told and has its default, so that the rest can be checked, too."""
    mistakes: list[Mistake] = []
    while True:
        try:
            return Recipe.model_validate(data, context={"base": base}), mistakes
        except ValidationError as error:
            found = error.errors(include_url=False)
        # What is wrong only without a key that was wrong itself is no mistake of its own.
        mistakes = mistakes or [(each["loc"], _sentence(each)) for each in found]
        data = _without(data, [each["loc"] for each in found])


def _without(data: dict[str, Any], places: Sequence[Place]) -> dict[str, Any]:
    left = deepcopy(data)
    for *above, last in reversed(places):  # the last of a list first
        holder: Any = left
        for key in above:
            holder = holder[key]
        del holder[last]
    return left


def _sentence(error: Any) -> str:
    """What pydantic found, with what is allowed."""
    place, kind, value = error["loc"], error["type"], error["input"]
    key = place[-1]
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "extra_forbidden":
        table = Recipe if len(place) == 1 else _TABLES[place[0]]
        guess = nearest_name(key, table.model_fields)
        return f"{key!r} is no key" + (f"; did you mean {guess!r}?" if guess else "")
    if place[0] in LISTS and len(place) <= 2:
        return LISTS[place[0]]
    if kind == "model_type":
        return f"{key!r} is to be a table"
    if kind == "literal_error":
        return f"{key} is {value!r}; choose {error['ctx']['expected']}"
    return f"{key} is {value!r}; give {_WANTED.get(kind, 'a number')}"


def _mistakes_of_the_whole(recipe: Recipe, ask: AskNames | None) -> Iterator[Mistake]:
    """What is wrong of several keys together, or against the checkpoints and ComfyUI."""
    # Results stand under these names, also on disks that do not tell capitals from small letters.
    for stem, count in Counter(path.stem.casefold() for path in recipe.checkpoints).items():
        if count > 1:
            yield ("checkpoints",), f"{count} checkpoints are named {stem!r}; rename one of them"
    yield from mistakes_in_headers(recipe.checkpoints, recipe.outputs)
    yield from rows_missing(recipe.outputs, recipe.calibration.rows_per_layer)
    drawing = {"calibration": recipe.calibration} | ({"proof": recipe.proof} if recipe.proof else {})
    yield from wrong_names(drawing, recipe.comfyui_arguments, ask)
