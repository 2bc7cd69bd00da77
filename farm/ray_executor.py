"""The same tasks on a Ray cluster: Ray places them, tries them again when a worker or a node dies, and shows them.

Results go to the store's folder where all nodes share it, otherwise back to the driver through Ray's object store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hswq_core.errors import HSWQError, PlanError

from .carry_out import Outcome, carry_out, worker_for
from .recipe import Recipe
from .store import Store
from .tasks import Task
from .worker import Worker, remove_stale_folders

Files = dict[str, bytes]
_worker: Worker | None = None


@dataclass(frozen=True)
class Parcel:
    """What a task gives to those that need it: its outcome, and its files where no folder is shared."""

    outcome: Outcome
    files: Files | None = None


def run_on_ray(
    recipe: Recipe, tasks: Sequence[Task], store: Store, began: str, address: str, workers: int
) -> Iterator[Outcome]:
    """What became of each task that was not done yet, as they end.

    Args:
        address: of a running cluster; without one, a cluster of this machine is started for this run.
        workers: how many tasks at a time, on such a cluster.

    Errors: PlanError when Ray is not installed or the cluster cannot be reached.
    """
    ray = _connected(address, workers)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=recipe.attempts)(_carry_out_here)
        sent, waiting = dict[str, Any](), dict[Any, Task]()
        for task in tasks:
            if store.has(task.name):
                if not recipe.shared:
                    sent[task.name] = ray.put(Parcel(Outcome(task.name, task.label), files_in(store.result(task.name))))
                continue
            needs = [sent[need.name] for need in task.needs if need.name in sent]
            sent[task.name] = remote.options(name=task.label).remote(task, recipe, str(store.folder), began, *needs)
            waiting[sent[task.name]] = task
        failed: set[str] = set()
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            task = waiting.pop(done)
            outcome = _received(ray, done, task, store, failed)
            if outcome.error:
                failed.add(task.name)
            yield outcome
    finally:
        ray.shutdown()


def _connected(address: str, workers: int) -> Any:
    try:
        import ray
    except ImportError:
        raise PlanError("Ray is not installed", remedy="pip install 'comfyui-hswq[farm]'") from None
    own: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PlanError(f"the Ray cluster cannot be reached ({error})", where=address, remedy="Check it") from error
    return ray


def _received(ray: Any, done: Any, task: Task, store: Store, failed: set[str]) -> Outcome:
    missing = next((need for need in task.needs if need.name in failed), None)
    if missing is not None:
        return Outcome.not_tried(task, missing.label)
    try:
        parcel: Parcel = ray.get(done)
        if parcel.files is not None and not parcel.outcome.error:
            with store.making(task.name) as folder:
                unpack(parcel.files, folder)
        return parcel.outcome
    except ray.exceptions.RayError as error:
        return Outcome(task.name, task.label, f"its worker died every time: {' '.join(str(error).split())[:300]}")
    except HSWQError as error:
        return Outcome(task.name, task.label, str(error))


def _carry_out_here(task: Task, recipe: Recipe, folder: str, began: str, *needs: Parcel) -> Parcel:
    """In a worker's process, which keeps its ComfyUI for the tasks to come."""
    global _worker
    if broken := next((parcel.outcome for parcel in needs if parcel.outcome.error), None):
        return Parcel(Outcome.not_tried(task, broken.label))
    try:
        if _worker is None:
            remove_stale_folders()
            _worker = worker_for(recipe, Store(Path(folder)))
        store = Store(Path(folder) if recipe.shared else _worker.own_store)
        for parcel in needs:
            if parcel.files is not None and not store.has(parcel.outcome.task):
                with store.making(parcel.outcome.task) as given:
                    unpack(parcel.files, given)
    except HSWQError as error:
        return Parcel(Outcome(task.name, task.label, str(error)))
    outcome = Outcome(task.name, task.label)
    if not store.has(task.name):
        outcome = carry_out(task, recipe, store, began, _worker)
    done = not recipe.shared and not outcome.error
    return Parcel(outcome, files_in(store.result(task.name)) if done else None)


def files_in(folder: Path) -> Files:
    """A result as bytes, by name relative to its folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def unpack(files: Files, folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
