"""A recipe is checked as a whole, and its mistakes are told with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from farm.cli import main
from farm.recipe import RecipeError, read_recipe
from farm.store import Store
from farm.tasks import KINDS, content_digest, tasks_of
from tests.farm.small_farm import PROOF_AND_CARD, RECIPE, make_checkpoints

GOOD = RECIPE.format(base="/base", shards=4, attempts=2, shared="true") + PROOF_AND_CARD


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_checkpoints(tmp_path / "models", 2)
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD)
    return path


def changed(recipe: Path, **lines: str) -> Path:
    """The recipe with other lines in place of those that begin so."""
    done = []
    for line in GOOD.splitlines():
        key = line.partition("=")[0].strip()
        done.append(lines.get(key, line))
    recipe.write_text("\n".join(done))
    return recipe


def test_a_good_recipe_becomes_tasks_each_after_what_it_needs(recipe: Path) -> None:
    read = read_recipe(recipe)
    tasks = tasks_of(read)
    assert [path.name for path in read.checkpoints] == ["model_00.safetensors", "model_01.safetensors"]
    kinds = [task.kind for task in tasks[: len(tasks) // 2]]
    assert [kinds.count(kind) for kind in KINDS] == [4, 1, 1, 2, 2, 2]
    names = [task.name for task in tasks]
    assert len(set(names)) == len(names)
    assert all(names.index(need.name) < names.index(task.name) for task in tasks for need in task.needs)
    shards = [task.settings for task in tasks if task.kind == "calibrate"][:4]
    assert [(shard["samples"], shard["seed"]) for shard in shards] == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert len({shard["prompts"] for shard in shards}) == 4


def test_a_task_is_named_for_all_that_its_result_depends_on(recipe: Path) -> None:
    before = {task.label: task.name for task in tasks_of(read_recipe(recipe))}
    assert before == {task.label: task.name for task in tasks_of(read_recipe(recipe))}
    # What only the outputs depend on leaves the calibration as it is.
    after = {task.label: task.name for task in tasks_of(read_recipe(changed(recipe, keep_ratio="keep_ratio = 0.2")))}
    assert {label for label in before if before[label] != after[label]} == {
        f"model_0{n}: v2: {step}" for n in (0, 1) for step in ("write", "prove", "card")
    }
    # Another file under a name is another model; only its own tasks change.
    file = recipe.parent / "models" / "model_01.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    recipe.write_text(GOOD)
    after = {task.label: task.name for task in tasks_of(read_recipe(recipe))}
    assert {label for label in before if before[label] != after[label]} == {
        label for label in before if label.startswith("model_01")
    }


def test_five_mistakes_are_told_together_with_their_lines(recipe: Path) -> None:
    changed(
        recipe, samples="samples = 0", stepz="", cfg='cfg = "high"', mode='mode = "v9"', licence='license = "mit"',
        checkpoints='checkpoints = ["nowhere/*.safetensors"]',
    )  # fmt: skip
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe)
    said = str(caught.value)
    lines = recipe.read_text().splitlines()

    def line(begin: str, nth: int = 0) -> int:
        return [number for number, text in enumerate(lines, 1) if text.startswith(begin)][nth]

    assert f"line {line('samples')}: samples is 0; give a number from 1 to 4096" in said
    assert f"line {line('cfg')}: cfg is 'high'; give a number" in said
    assert f"line {line('cfg', 1)}: cfg is 'high'" in said
    assert f"line {line('mode')}: 'v9' is not a mode" in said
    assert f"line {line('license')}: 'license' is no key; did you mean 'licence'?" in said
    assert f"line {line('checkpoints')}: there is no file 'nowhere/*.safetensors'" in said
    assert said.count("  line ") == 7, "the second output has no such mode either"


@pytest.mark.parametrize(
    ("text", "message"),
    [("a = [", "no TOML"), ("", "checkpoints is to be a list"), ('checkpoints = "x"\noutputs = 3', "at least one")],
)
def test_what_is_no_recipe(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert message in capsys.readouterr().err
    assert main([str(tmp_path / "missing.toml")]) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["recipe.toml"], "nothing was begun"


def test_two_checkpoints_of_one_name_are_refused(recipe: Path) -> None:
    make_checkpoints(recipe.parent / "more", 1)
    changed(recipe, checkpoints='checkpoints = ["models/*.safetensors", "more/*.safetensors"]')
    with pytest.raises(RecipeError, match="2 checkpoints are named 'model_00'"):
        read_recipe(recipe)


def test_the_plan_tells_tasks_and_disk(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, tasks = Store(recipe.parent / "out" / "tasks"), tasks_of(read_recipe(recipe))
    with store.making(tasks[0].name) as folder:
        (folder / "file").write_text("x")
    assert main(["plan", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert f"done   {tasks[0].name}  model_00: calibrate, part 1 of 4" in said
    assert "calibrate        1 of 8 done" in said and "time left: unknown" in said and "GB in" in said
    assert content_digest(recipe.parent / "models" / "model_00.safetensors") == tasks[0].content
