"""Recipes by API: the file is of the options that the recipe names, whatever the fields of the prompt say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hswq_core.recipes import CUSTOM, RECIPES
from tests.support.server import ComfyServer, ExecutionError
from tests.support.workflows import calibrated, quantize


@pytest.fixture(scope="module")
def reports(server: ComfyServer) -> dict[str, dict[str, Any]]:
    """What each recipe wrote, from prompts whose fields say something else."""
    flow = calibrated("cal", session="recipes", steps=3, rows=64)
    for name in RECIPES:
        # The fields of custom are those of an older prompt.
        chosen = {} if name == CUSTOM else {"recipe": name}
        flow[name] = quantize(
            ["calibrate", 1], ["cal_sampler", 0], mode="comfy", filename=name.replace(" ", "_"), model=["loader", 0],
            **chosen,
        )["quantize"]  # fmt: skip
    outputs = server.run(flow)
    return {name: json.loads(outputs[name]["report"][0]) for name in RECIPES}


@pytest.mark.parametrize("name", [name for name in RECIPES if name != CUSTOM])
def test_a_recipe_writes_what_it_names(reports: dict[str, dict[str, Any]], name: str) -> None:
    decided = RECIPES[name]
    found = reports[name]
    for field in ("mode", "selection", "rounding"):
        assert found[field] == decided[field], field
    assert (found["calibrated_layers"] > 0) == (decided["rounding"] == "calibrated")
    assert found["predicted_error"] is None or found["predicted_error"] < 0.1
    assert (found["rotated_layers"] > 0) <= decided["rotate"]


def test_the_best_is_the_closest_and_the_smallest_is_the_smallest(reports: dict[str, dict[str, Any]]) -> None:
    error = {name: found["measured_error"] for name, found in reports.items() if found["measured_error"] is not None}
    size = {name: found["bytes"] for name, found in reports.items()}
    assert error["best quality"] < error["smallest good"]
    assert min(size, key=lambda name: size[name]) == "smallest good"
    assert size["fast"] == pytest.approx(size["best quality"], rel=0.05), "as many layers are kept, not the same ones"


def test_a_prompt_without_a_recipe_is_as_it_was(reports: dict[str, dict[str, Any]]) -> None:
    found = reports[CUSTOM]
    assert (found["mode"], found["selection"], found["rounding"]) == ("comfy", "variance", "nearest")


def test_an_unknown_recipe_is_refused_with_the_known_ones(server: ComfyServer) -> None:
    flow = calibrated("cal", session="recipes", steps=3, rows=64)
    flow |= quantize(["calibrate", 1], ["cal_sampler", 0], recipe="best")
    with pytest.raises(ExecutionError) as caught:
        server.run(flow)
    told = json.dumps(caught.value.details)
    assert all(name in told for name in RECIPES)


def test_the_page_is_told_the_same_recipes(server: ComfyServer) -> None:
    assert server.get("/hswq/recipes")["recipes"] == {name: dict(decided) for name, decided in RECIPES.items()}
