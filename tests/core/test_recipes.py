"""Recipes: what each decides, what it leaves open, and that one asked for by a wrong name is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hswq_core.cli import main
from hswq_core.errors import PlanError
from hswq_core.files.inspection import mode_of
from hswq_core.options import MODEL_CARD_OPTIONS, QuantizeOptions
from hswq_core.recipes import CUSTOM, DEFAULT_RECIPE, RECIPES, options_of_recipe, recipe_fields
from tests.core.conftest import Example

EXPECTED = {
    "best quality": ("int8", "measured", "calibrated", False),
    "smallest good": ("mixed", "measured", "calibrated", False),
    "for everyone": ("v1", "measured", "calibrated", False),
    "fast": ("int8", "measured", "calibrated", True),
    "HSWQ model card": ("v2", "variance", "nearest", False),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recipe_is_these_options(name: str) -> None:
    options = options_of_recipe(name, {})
    assert (options.mode, options.selection, options.rounding, options.rotate) == EXPECTED[name]
    assert options.target == "" and options.budget == "" and options.scales == "tensor"


def test_every_recipe_is_tested_and_the_default_is_one() -> None:
    assert EXPECTED.keys() | {CUSTOM} == RECIPES.keys() and DEFAULT_RECIPE in EXPECTED


def test_the_model_cards_recipe_is_the_model_cards() -> None:
    assert options_of_recipe("HSWQ model card", {"keep_ratio": 0.1}) == MODEL_CARD_OPTIONS


def test_size_and_patterns_stay_free() -> None:
    free: dict[str, Any] = {"keep_ratio": 0.1, "force_keep": ("*.to_v",)}
    assert options_of_recipe("best quality", free).keep_ratio == 0.1
    assert options_of_recipe("best quality", {"budget": "57%"}).budget == "57%"
    assert options_of_recipe("custom", free) == QuantizeOptions(**free)


@pytest.mark.parametrize("name", ["best quality", "best-quality", "Best_Quality "])
def test_a_name_may_be_written_for_a_shell(name: str) -> None:
    assert recipe_fields(name) is RECIPES["best quality"]


def test_an_unknown_recipe_is_told_with_those_that_there_are() -> None:
    with pytest.raises(PlanError) as caught:
        recipe_fields("best qualty")
    remedy = caught.value.remedy or ""
    assert "Did you mean 'best quality'?" in remedy and all(name in remedy for name in RECIPES)


def test_what_contradicts_a_recipe_is_refused() -> None:
    with pytest.raises(PlanError, match=r"has rounding 'calibrated', and 'nearest' is asked for"):
        options_of_recipe("fast", {"rounding": "nearest"})
    assert options_of_recipe("fast", {"rounding": "calibrated"}).rotate
    with pytest.raises(PlanError, match="budget"):
        options_of_recipe("smallest good", {"budget": "57%"})


def test_command_line(example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["quantize", str(example.path), str(tmp_path / "out.safetensors"), "--stats", str(example.statistics_path)]
    assert main([*words, "--recipe", "HSWQ-model-card", "--keep-ratio", "0.1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["mode"], said["selection"], said["rounding"], said["keep_ratio"]) == ("v2", "variance", "nearest", 0.1)
    assert mode_of(tmp_path / "out.safetensors") == "v2"
    assert main([*words, "--recipe", "fast", "--rounding", "nearest"]) == 2
    assert "the recipe 'fast' has rounding 'calibrated'" in capsys.readouterr().err
    assert main([*words, "--recipe", "quick"]) == 2
    assert "'quick' is not a recipe" in capsys.readouterr().err


@pytest.mark.parametrize("choice", [[], ["--mode", "v2", "--recipe", "fast"]], ids=["neither", "both"])
def test_a_mode_or_a_recipe(choice: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["quantize", "a", "b", *choice])
    assert caught.value.code == 2 and "--recipe" in capsys.readouterr().err
