"""One task at a time on this machine, with its own ComfyUI. Needs nothing but what this pack needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .carry_out import Outcome, carry_out, worker_for
from .recipe import Recipe
from .store import Store
from .tasks import Task


def run_locally(recipe: Recipe, tasks: Sequence[Task], store: Store, began: str) -> Iterator[Outcome]:
    """What became of each task that was not done yet, in order."""
    worker = worker_for(recipe, store)
    failed: set[str] = set()
    try:
        for task in tasks:
            if store.has(task.name):
                continue
            missing = next((need for need in task.needs if need.name in failed), None)
            if missing is not None:
                outcome = Outcome.not_tried(task, missing.label)
            else:
                outcome = carry_out(task, recipe, store, began, worker, recipe.attempts)
            if outcome.error:
                failed.add(task.name)
            yield outcome
    finally:
        worker.close()
