"""One task at a time on this machine, with its own ComfyUI."""

from __future__ import annotations

from .execute import execute, worker_for
from .schedule import Try
from .store import Store
from .tables import Recipe
from .tasks import Task


class LocalExecutor:
    """Args: start: when the farm began. Errors: ServerError when no ComfyUI is named."""

    def __init__(self, recipe: Recipe, store: Store, start: str) -> None:
        self._recipe, self._store, self._start = recipe, store, start
        self._worker = worker_for(recipe, store)
        self._next: Task | None = None

    @property
    def has_room(self) -> bool:
        return self._next is None

    def submit(self, task: Task, avoid: str = "") -> None:
        self._next = task

    def wait(self) -> Try:
        task, self._next = self._next, None
        assert task is not None, "nothing was submitted"
        return Try(execute(task, self._recipe, self._store, self._start, self._worker))

    def close(self) -> None:
        self._worker.close()
