"""One try of a task, and what became of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from hswq_core.errors import HSWQError

from .jobs import run_task
from .store import Store
from .tables import Recipe
from .tasks import Task
from .worker import Worker, comfyui_of_this_node


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    error: what went wrong at the last try, in one line; empty when the task is done.
    log: what its ComfyUI said last.
    skipped: whether it was not tried, as what it needs was set aside.
    """

    task: str
    label: str
    error: str = ""
    log: str = ""
    skipped: bool = False
    seconds: float = 0.0

    @staticmethod
    def not_tried(task: Task, failed: str) -> Outcome:
        """Of a task that needs another one, which failed."""
        return Outcome(task.name, task.label, f"not tried: {failed} failed", skipped=True)


def worker_for(recipe: Recipe, store: Store) -> Worker:
    """Errors: ServerError when this node names no ComfyUI."""
    folders = [*sorted({path.parent for path in recipe.checkpoints}), store.folder]
    return Worker(comfyui_of_this_node(), folders, recipe.threads, recipe.comfyui_arguments)


def execute(task: Task, recipe: Recipe, store: Store, start: str, worker: Worker) -> Outcome:
    """Try a task whose needs are done. The result is in the store, or the outcome says why not.

    After a failure the worker's ComfyUI is stopped, so that the next try has a fresh one.

    Args:
        start: when the farm began (``start_time``).
    """
    begun = time.monotonic()
    # The date in a file's header is the farm's, so that the same recipe gives the same bytes on any day.
    os.environ["SOURCE_DATE_EPOCH"] = start
    torch.set_num_threads(recipe.threads)  # as for its ComfyUI: sums differ in their last bits otherwise
    needs = [store.result(need.name) for need in task.needs]
    error = log = ""
    try:
        with store.making(task.name) as out:
            run_task(task, needs, out, worker)
    except HSWQError as problem:
        error = str(problem)
    except (OSError, MemoryError, RuntimeError, StopIteration) as problem:
        error = f"{type(problem).__name__}: {problem}"
    if error:
        log = worker.log
        worker.restart()
    return Outcome(task.name, task.label, " ".join(error.split()), log, seconds=time.monotonic() - begun)


def start_time(store: Store) -> str:
    """When the farm began, in seconds since 1970, as text. It is noted once and stays."""
    path: Path = store.folder / "began"
    if not path.exists():
        unfinished = path.with_name(f"began-{os.getpid()}")
        unfinished.write_text(os.environ.get("SOURCE_DATE_EPOCH") or str(int(time.time())))
        unfinished.replace(path)
    return path.read_text()
