"""The order of tasks: one loop for every executor. An executor only starts a task and waits for the next that ends."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .execute import Outcome
from .store import Store
from .tasks import Task


@dataclass(frozen=True)
class Try:
    """One try of a task that has ended.

    Attributes:
        node: the executor's name of the machine that tried it.
        final: whether another try is of no use.
    """

    outcome: Outcome
    node: str = ""
    final: bool = False


class Executor(Protocol):
    """Where tasks run."""

    @property
    def has_room(self) -> bool:
        """Whether it takes another task now."""
        ...

    def submit(self, task: Task, avoid: str = "") -> None:
        """Start a task whose needs are done. Args: avoid: the node of the last try, which failed."""
        ...

    def wait(self) -> Try:
        """Wait until one of the submitted tasks ends. A result is in the store then."""
        ...


def run_tasks(tasks: Sequence[Task], store: Store, attempts: int, executor: Executor) -> Iterator[Outcome]:
    """What became of each task that was not done yet, as they end.

    A task starts when what it needs is done. One that fails is tried again at once, and is set aside in the end; what
    needs it is skipped.

    Args:
        tasks: each after those that it needs.
        attempts: how often a task is tried.
    """
    return _Schedule(tasks, store, attempts, executor).run()


class _Schedule:
    def __init__(self, tasks: Sequence[Task], store: Store, attempts: int, executor: Executor) -> None:
        self._store, self._attempts, self._executor = store, attempts, executor
        self._waiting = [task for task in tasks if not store.has(task.name)]
        self._done = {each.name for task in tasks for each in (task, *task.needs) if store.has(each.name)}
        self._failed: set[str] = set()
        self._running: dict[str, Task] = {}
        self._tries, self._seconds = Counter[str](), defaultdict[str, float](float)

    def run(self) -> Iterator[Outcome]:
        while self._waiting or self._running:
            yield from self._submit_what_is_ready()
            if self._running:
                yield from self._take(self._executor.wait())

    def _submit_what_is_ready(self) -> Iterator[Outcome]:
        """Submit in the order of the tasks, as far as there is room. Gives those that cannot be tried any more."""
        for task in list(self._waiting):
            if not self._executor.has_room:
                return
            failed = next((need for need in task.needs if need.name in self._failed), None)
            if failed is not None:
                self._failed.add(task.name)
                yield Outcome.not_tried(task, failed.label)
            elif self._store.has(task.name):  # another farm in this folder was faster
                self._done.add(task.name)
            elif all(need.name in self._done for need in task.needs):
                self._running[task.name] = task
                self._executor.submit(task)
            else:
                continue
            self._waiting.remove(task)

    def _take(self, ended: Try) -> Iterator[Outcome]:
        """Try again what failed, as long as that is of use; otherwise gives the outcome, with the time of all tries."""
        name = ended.outcome.task
        self._tries[name] += 1
        self._seconds[name] += ended.outcome.seconds
        if ended.outcome.error and not ended.final and self._tries[name] < self._attempts:
            self._executor.submit(self._running[name], avoid=ended.node)
            return
        del self._running[name]
        (self._failed if ended.outcome.error else self._done).add(name)
        yield replace(ended.outcome, seconds=self._seconds[name])
