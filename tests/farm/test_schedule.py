"""The loop that every executor shares: order, tries, and what is set aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from farm.execute import Outcome
from farm.schedule import Try, run_tasks
from farm.store import Store
from farm.tasks import Kind, Task


def task(kind: Kind, label: str, *needs: Task) -> Task:
    return Task(kind, Path("model.safetensors"), label, {"label": label}, needs)


A, B = task("calibrate", "a"), task("calibrate", "b")
SUM = task("merge", "sum", A, B)
FILE, OTHER = task("quantize", "file", SUM), task("quantize", "other", SUM)
TASKS = [A, B, SUM, FILE, OTHER]


class FakeExecutor:
    """Fails tasks as often as it is told, the newest one first; a second takes each try.

    Args:
        failures: how often, by label.
        room: tasks at a time.
        final: whether a failure is one that no other try would mend.
    """

    def __init__(self, store: Store, failures: Mapping[str, int], room: int = 1, final: bool = False) -> None:
        self._store, self._failures, self._room, self._final = store, dict(failures), room, final
        self._submitted: list[Task] = []
        self.tried: list[tuple[str, str]] = []

    @property
    def has_room(self) -> bool:
        return len(self._submitted) < self._room

    def submit(self, task: Task, avoid: str = "") -> None:
        assert self.has_room
        self._submitted.append(task)
        self.tried.append((task.label, avoid))

    def wait(self) -> Try:
        task = self._submitted.pop()
        left = self._failures.get(task.label, 0)
        self._failures[task.label] = left - 1
        if left > 0:
            return Try(Outcome(task.name, task.label, "broken", seconds=1), "node", self._final)
        with self._store.making(task.name):
            pass
        return Try(Outcome(task.name, task.label, seconds=1), "node")


Run = Callable[..., tuple[list[Outcome], list[tuple[str, str]]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(failures: Mapping[str, int] | None = None, attempts: int = 2, **how: object) -> object:
        executor = FakeExecutor(Store(tmp_path), failures or {}, **how)  # type: ignore[arg-type]
        return list(run_tasks(TASKS, Store(tmp_path), attempts, executor)), executor.tried

    return run  # type: ignore[return-value]


def test_one_at_a_time_goes_in_order(run: Run) -> None:
    outcomes, tried = run()
    assert [outcome.label for outcome in outcomes] == ["a", "b", "sum", "file", "other"]
    assert tried == [(label, "") for label in ("a", "b", "sum", "file", "other")]
    assert run() == ([], []), "all is done"


def test_many_at_a_time_wait_for_what_they_need(run: Run) -> None:
    _, tried = run(room=9)
    assert [label for label, _ in tried] == ["a", "b", "sum", "file", "other"]


def test_what_fails_is_tried_again_elsewhere_and_its_time_adds_up(run: Run) -> None:
    outcomes, tried = run({"b": 1})
    assert tried[:4] == [("a", ""), ("b", ""), ("b", "node"), ("sum", "")]
    assert [(outcome.error, outcome.seconds) for outcome in outcomes[:2]] == [("", 1), ("", 2)]


@pytest.mark.parametrize("room", [1, 9])
def test_what_needs_a_failed_task_is_skipped_and_the_rest_goes_on(run: Run, room: int) -> None:
    outcomes, tried = run({"a": 5}, attempts=3, room=room)
    assert [label for label, _ in tried].count("a") == 3
    found = {outcome.label: (outcome.error, outcome.skipped) for outcome in outcomes}
    assert found == {
        "a": ("broken", False), "b": ("", False), "sum": ("not tried: a failed", True),
        "file": ("not tried: sum failed", True), "other": ("not tried: sum failed", True),
    }  # fmt: skip


def test_what_no_try_would_mend_is_tried_once(run: Run) -> None:
    _, tried = run({"a": 1}, final=True)
    assert tried == [("a", ""), ("b", "")]


def test_a_task_that_another_farm_has_done_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    executor = FakeExecutor(store, {})
    outcomes = run_tasks(TASKS, store, 2, executor)
    next(outcomes)
    with store.making(B.name):
        pass
    assert [outcome.label for outcome in outcomes] == ["sum", "file", "other"]
