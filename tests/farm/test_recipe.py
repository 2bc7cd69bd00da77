"""A recipe is checked as a whole, and its mistakes are told with their lines."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from farm.cli import main
from farm.recipe import RecipeError, read_recipe
from farm.store import Store
from farm.tables import Card
from farm.tasks import KINDS, content_digest, tasks_of
from hswq_core.api import plan
from hswq_core.errors import PlanError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.options import QuantizeOptions
from hswq_core.planning.budget import check_budget, smallest_size
from hswq_core.publishing import About
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


SAMPLER, ROUNDING, BUDGET = 'sampler = "eulr"', 'rounding = "calibrated"', 'budget = "40%"'


def told(recipe: Path, text: str, **names: list[str]) -> str:
    """What is said of a recipe, whose ComfyUI has these samplers and schedulers."""
    recipe.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe, lambda _arguments: names or None)
    return str(caught.value)


def line_of(recipe: Path, text: str) -> int:
    return recipe.read_text().splitlines().index(text) + 1


def test_every_mistake_of_an_output_is_told_at_its_line(recipe: Path) -> None:
    wrong = 'budget = "57 percent"\nrotate = 3\nforce_keep = 5\nkeep_ratio = "0.1"\nscales = "channel"\nmod = 1'
    said = told(recipe, GOOD.replace('budget = "60%"', wrong))
    for line, what in (
        ('budget = "57 percent"', "'57 percent' is not a size"), ("rotate = 3", "rotate is 3"),
        ("force_keep = 5", "force_keep is 5"), ('keep_ratio = "0.1"', "the keep ratio is '0.1'"),
        ('scales = "channel"', "scales by channel are a choice of v2 alone"), ("mod = 1", "did you mean 'mode'"),
    ):  # fmt: skip
        assert re.search(rf"line {line_of(recipe, line)}: .*{re.escape(what)}", said), (line, said)
    assert "6 mistakes" in said


def test_an_output_may_be_a_recipe_by_name(recipe: Path) -> None:
    recipe.write_text(GOOD + '[[outputs]]\nrecipe = "best quality"\nkeep_ratio = 0.1\n')
    options = read_recipe(recipe).outputs[-1]
    assert (options.mode, options.rounding, options.keep_ratio) == ("int8", "calibrated", 0.1)
    wrong = {'recipe = "best"': "'best' is not a recipe", 'recipe = "fast"\nmode = "v2"': "'fast' has mode 'int8'"}
    assert all(what in told(recipe, f"{GOOD}[[outputs]]\n{text}\n") for text, what in wrong.items())


def test_no_mistake_hides_another(recipe: Path) -> None:
    wrong = 'samples = "32"\nprompts = "missing.txt"\nrows_per_layer = 0\n'
    text = GOOD.replace('budget = "60%"', 'budget = "1KB"\nkeep_ratio = 7\nrounding = "calibrated"')
    table, _, rest = text.partition("[calibration]\n")
    rest = "\n".join(line for line in rest.splitlines() if not line.startswith(("samples", "rows_per_layer")))
    said = told(recipe, f"{table}[calibration]\n{wrong}{rest}\n")
    for what in (
        "samples is '32'", "missing.txt: the prompts cannot be read", "rows_per_layer is 0",
        "the keep ratio is 7", "the budget of 1,000 bytes is too small",
    ):  # fmt: skip
        assert what in said, (what, said)


def test_keys_of_the_wrong_kind_are_told_with_what_is_allowed(recipe: Path) -> None:
    wrong = 'folder = 5\nshared = "no"\nattempts = true\nthreads = 1.5\ncomfyui_arguments = "--x"\nproof = 3\n'
    wrong += '[calibration]\nsteps = 1001\ncfg = nan\n[sensitivity]\nmethod = "x"\n[other]\n'
    said = told(recipe, f'checkpoints = ["models/*"]\noutputs = [3]\n{wrong}')
    for line, what in enumerate(
        (
            "at least one [[outputs]] is needed", "folder is 5; give a text", "shared is 'no'; give true or false",
            "attempts is True; give a number", "threads is 1.5; give a number", "comfyui_arguments is to be a list",
            "'proof' is to be a table", "", "steps is 1001; give a number from 1 to 1000",
            "cfg is nan; give a number from 0 to 100", "", "method is 'x'; choose 'gradient' or 'exact'",
            "'other' is no key",
        ), 2,
    ):  # fmt: skip
        assert f"line {line}: {what}" in said or not what, (line, said)
    assert "11 mistakes" in said


def test_a_card_says_what_publishing_takes_and_a_whole_number_stays_one(recipe: Path) -> None:
    assert set(Card.model_fields) == {field.name for field in fields(About)}
    cfg = read_recipe(changed(recipe, cfg="cfg = 2")).calibration.cfg
    assert isinstance(cfg, int), "tasks are named by it"


@pytest.mark.parametrize("named", ["notes.txt", "*.txt"])
def test_what_is_not_safetensors_is_not_passed_over(recipe: Path, named: str) -> None:
    (recipe.parent / "notes.txt").write_text("no checkpoint")
    patterns = re.search(r"checkpoints = \[(.*)\]", GOOD)
    assert patterns is not None
    said = told(recipe, GOOD.replace(patterns[1], f'{patterns[1]}, "{named}"'))
    assert f"{named!r} names no safetensors file" in said


def test_names_that_this_comfyui_does_not_have(recipe: Path) -> None:
    text = GOOD.replace("cfg = 2.0\nwidth", 'sampler = "eulr"\nscheduler = "karras"\nwidth')
    said = told(recipe, text, sampler=["euler", "res_2m"], scheduler=["normal", "karras"])
    assert f"line {line_of(recipe, SAMPLER)}: 'eulr' is no sampler of this ComfyUI; did you mean" in said
    assert "2 mistakes" in said, "it stands in two tables"
    recipe.write_text(text)
    assert read_recipe(recipe).calibration.sampler == "eulr", "nobody to ask"


def test_what_headers_tell_is_told_before_anything_is_calibrated(recipe: Path) -> None:
    models = recipe.parent / "models"
    good = load_file(models / "model_00.safetensors")
    unet = {k: v for k, v in good.items() if k.startswith("model.diffusion_model.")}
    half = {k: v.to(torch.float8_e4m3fn) if k in unet and v.dim() > 1 else v for k, v in good.items()}
    save_file(unet, models / "alone.safetensors")
    save_file(half, models / "half.safetensors")
    (models / "short.safetensors").write_bytes((models / "model_00.safetensors").read_bytes()[:1000])
    text = GOOD.replace('budget = "60%"', 'budget = "40%"\nforce_keep = ["*.nothing"]')
    said = told(recipe, text.replace("rows_per_layer = 32", "rows_per_layer = 0"))
    at = line_of(recipe, 'checkpoints = ["models/*.safetensors"]')
    assert f"line {at}: alone.safetensors: a diffusion model alone has no text encoder" in said
    assert f"line {at}: half.safetensors: " in said and "quantized already" in said
    assert f"line {at}: short.safetensors: the file is truncated" in said
    assert f"line {line_of(recipe, ROUNDING)}: rounding = 'calibrated' needs sampled rows" in said
    for name in ("model_00", "model_01"):
        assert f"line {line_of(recipe, BUDGET)}: {name}.safetensors: the budget of 4,6" in said
        assert f"{name}.safetensors: no layer matches the pattern '*.nothing'" in said
    assert "8 mistakes" in said


def test_the_smallest_size_is_no_larger_than_what_is_written(recipe: Path) -> None:
    """A budget that is refused beforehand could never be met; one byte in a hundred is the file's own words."""
    source = recipe.parent / "models" / "model_00.safetensors"
    for mode in ("v2", "int8", "comfy"):
        options = QuantizeOptions(mode=mode, keep_ratio=0.0)
        written = plan(source, None, options).nbytes
        with CheckpointReader(source) as reader:
            least = smallest_size(reader, options)
            check_budget(reader, QuantizeOptions(mode=mode, budget=str(written)))
            with pytest.raises(PlanError, match="too small"):
                check_budget(reader, QuantizeOptions(mode=mode, budget=str(least - 1)))
        assert 0.98 * written < least <= written


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
    more = recipe.parent / "more"
    (more / "model_00.safetensors").rename(more / "MODEL_00.safetensors")  # one name on Windows and macOS
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
