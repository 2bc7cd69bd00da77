"""``hswq farm RECIPE``, ``hswq farm plan RECIPE``, ``hswq farm run RECIPE --task NAME``.

Exit code 0 when everything is done, 1 when tasks were set aside, 2 for a recipe that cannot be carried out, and 130
when it was interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hswq_core.errors import HSWQError, PlanError

from .board import Board
from .comfyui_names import names_of_comfyui
from .estimate import plan_text
from .execute import Outcome, start_time
from .local import LocalExecutor
from .ray_executor import RayExecutor
from .recipe import read_recipe
from .results import put_results
from .schedule import run_tasks
from .store import Store
from .tables import Recipe
from .tasks import Task, tasks_of
from .worker import remove_stale_folders


def main(arguments: Sequence[str]) -> int:
    """Args: arguments: what stands behind ``hswq farm``."""
    words = list(arguments)
    for at, (word, following) in enumerate(itertools.pairwise(words)):
        if word == "--ray" and following.endswith(".toml"):
            words[at] = "--ray=local"  # what follows is the recipe, not an address
    command = words.pop(0) if words and words[0] in ("plan", "run") else "all"
    args = _parser(command).parse_args(words)
    try:
        # One task of many starts no server to ask for names: whoever began the array has asked.
        recipe = read_recipe(args.recipe, None if command == "run" else names_of_comfyui)
        store, tasks = Store(recipe.folder / "tasks"), tasks_of(recipe)
        if command == "plan":
            print(plan_text(recipe, tasks, store, args.workers))
            return 0
        return _run(args, recipe, store, _chosen(tasks, args.task) if command == "run" else tasks)
    except HSWQError as error:
        print(f"hswq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hswq: interrupted; what is finished is kept, and the same command goes on", file=sys.stderr)
        return 130


def _parser(command: str) -> argparse.ArgumentParser:
    name = "hswq farm" if command == "all" else f"hswq farm {command}"
    about = {
        "all": "Carry out a recipe: many checkpoints, on this machine or on a Ray cluster.",
        "plan": "Say what a recipe will do, what of it is done, and what it takes.",
        "run": "Carry out one task of a recipe, as an array job of a batch system does.",
    }
    parser = argparse.ArgumentParser(prog=name, description=about[command], epilog="example: hswq farm recipe.toml")
    parser.add_argument("recipe", type=Path, help="a TOML file; docs/farm.md has an example")
    if command == "run":
        parser.add_argument("--task", required=True, help="its name or number, from 1, as 'hswq farm plan' lists them")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="tasks at a time, on a Ray of its own")
    if command == "all":
        parser.add_argument(
            "--ray", nargs="?", const="local", default="", metavar="ADDRESS",
            help="use Ray: the cluster at an address, or without one a cluster of this machine",
        )  # fmt: skip
    if command != "plan":
        parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
        parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _chosen(tasks: list[Task], wanted: str) -> list[Task]:
    found = [task for number, task in enumerate(tasks, 1) if wanted in (task.name, str(number))]
    if not found:
        raise PlanError("there is no such task", where=wanted, remedy="See 'hswq farm plan' for their names")
    return found


def _run(args: argparse.Namespace, recipe: Recipe, store: Store, tasks: list[Task]) -> int:
    store.folder.mkdir(parents=True, exist_ok=True)
    store.remove_leftovers()
    remove_stale_folders()
    start = start_time(store)
    address = getattr(args, "ray", "")
    workers = args.workers if address else 1
    outcomes: list[Outcome] = []
    with Board(tasks, store, workers, quiet=args.quiet or args.json) as board:
        for outcome in _outcomes(recipe, store, tasks, start, address, workers, one=hasattr(args, "task")):
            outcomes.append(outcome)
            board.tell(outcome)
    put_results(recipe, store, tasks)
    remove_stale_folders()
    failed = [outcome for outcome in outcomes if outcome.error]
    _report(args, recipe, store, tasks, outcomes)
    return 1 if failed else 0


def _outcomes(
    recipe: Recipe, store: Store, tasks: list[Task], start: str, address: str, workers: int, *, one: bool
) -> Iterator[Outcome]:
    if one:
        (task,) = tasks
        missing = next((need for need in task.needs if not store.has(need.name)), None)
        if missing is not None:
            raise PlanError(f"it needs {missing.name}, which is not done", where=task.name, remedy="Do that first")
        if store.has(task.name):
            return
    if address:
        executor = RayExecutor(recipe, store, start, "" if address == "local" else address, workers)
    else:
        executor = LocalExecutor(recipe, store, start)
    with contextlib.closing(executor):
        yield from run_tasks(tasks, store, recipe.attempts, executor)


def _report(args: argparse.Namespace, recipe: Recipe, store: Store, tasks: list[Task], outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error]
    logs = recipe.folder / "failed"
    for outcome in failed:
        if outcome.log:
            logs.mkdir(exist_ok=True)
            (logs / f"{outcome.task}.log").write_text(outcome.log, "utf-8")
    done = sum(store.has(task.name) for task in tasks)
    if args.json:
        said = [vars(outcome) for outcome in outcomes]
        print(json.dumps({"tasks": len(tasks), "done": done, "outcomes": said}, indent=2))
        return
    print(f"{done} of {len(tasks)} tasks done; results in {recipe.folder / 'results'}")
    for outcome in failed:
        print(f"{'skipped' if outcome.skipped else 'failed '}  {outcome.label}: {outcome.error}")
    if any(outcome.log for outcome in failed):
        print(f"what their ComfyUI said is in {logs}")
