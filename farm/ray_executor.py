"""The same tasks on a Ray cluster: Ray places them, tries them again when a worker or a node dies, and shows them.

Results go to the store's folder where all nodes share it, otherwise back to the driver through Ray's object store.
"""

from __future__ import annotations

import logging
import random
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hswq_core.errors import HSWQError, PlanError

from .execute import Outcome, execute, worker_for
from .schedule import Try
from .store import Store
from .tables import Recipe
from .tasks import Task
from .worker import Worker, remove_stale_folders

Files = dict[str, bytes]
_worker: Worker | None = None


@dataclass(frozen=True)
class Parcel:
    """What a task hands on.

    Attributes:
        files: its result, where no folder is shared.
        node: Ray's name of the node that tried it.
    """

    outcome: Outcome
    files: Files | None = None
    node: str = ""


class RayExecutor:
    """A task that failed is tried again on another node, if there is one: it may be the node that is broken, and a node
    on which everything fails at once gets more tasks than the others.

    Args:
        start: when the farm began.
        address: of a running cluster; without one, a cluster of this machine is started for this run.
        workers: how many tasks at a time, on such a cluster.

    Errors: PlanError when Ray is not installed or the cluster cannot be reached.
    """

    has_room = True
    """Ray keeps what it cannot place yet."""

    def __init__(self, recipe: Recipe, store: Store, start: str, address: str, workers: int) -> None:
        self._recipe, self._store, self._start = recipe, store, start
        self._ray = _connected(address, workers)
        self._gpus = 1 if self._ray.cluster_resources().get("GPU") else 0
        remote = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=recipe.attempts)
        self._execute = remote(_execute_here)
        self._parcels: dict[str, Any] = {}
        self._running: dict[Any, Task] = {}

    def submit(self, task: Task, avoid: str = "") -> None:
        options = self._away_from(avoid) if avoid else {}
        needs = () if self._recipe.shared else [self._parcel_of(need) for need in task.needs]
        remote = self._execute.options(name=task.label, **options)
        self._running[remote.remote(task, self._recipe, str(self._store.folder), self._start, *needs)] = task

    def wait(self) -> Try:
        (ended,), _ = self._ray.wait(list(self._running), num_returns=1)
        task = self._running.pop(ended)
        try:
            parcel: Parcel = self._ray.get(ended)
            if parcel.files is not None:
                with self._store.making(task.name) as folder:
                    unpack(parcel.files, folder)
                self._parcels[task.name] = ended
        except self._ray.exceptions.RayError as error:  # Ray itself has tried again
            said = " ".join(str(error).split())[:300]
            return Try(Outcome(task.name, task.label, f"its worker died every time: {said}"), final=True)
        except HSWQError as error:
            return Try(Outcome(task.name, task.label, str(error)), final=True)
        return Try(parcel.outcome, parcel.node)

    def close(self) -> None:
        self._ray.shutdown()

    def _parcel_of(self, task: Task) -> Any:
        """Ray's name of a result; one that is from an earlier run is put there."""
        if task.name not in self._parcels:
            parcel = Parcel(Outcome(task.name, task.label), files_in(self._store.result(task.name)))
            self._parcels[task.name] = self._ray.put(parcel)
        return self._parcels[task.name]

    def _away_from(self, node: str) -> dict[str, Any]:
        """Options that send a task to another node than this one, if there is one."""

        def fits(other: dict[str, Any]) -> bool:
            resources = other["Resources"]
            return other["Alive"] and resources.get("CPU", 0) >= 1 and resources.get("GPU", 0) >= self._gpus

        others = [other["NodeID"] for other in self._ray.nodes() if other["NodeID"] != node and fits(other)]
        if not others:
            return {}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Soft: were it to die before the task begins, any node would do.
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(random.choice(others), soft=True)}


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


def _execute_here(task: Task, recipe: Recipe, folder: str, start: str, *needs: Parcel) -> Parcel:
    """In a worker's process, which keeps its ComfyUI for the tasks to come."""
    import ray

    global _worker
    node = ray.get_runtime_context().get_node_id()
    files: Files | None = None
    try:
        if _worker is None:
            remove_stale_folders()
            _worker = worker_for(recipe, Store(Path(folder)))
        store = Store(Path(folder) if recipe.shared else _worker.own_store)
        for parcel in needs:
            if parcel.files is not None and not store.has(parcel.outcome.task):
                with store.making(parcel.outcome.task) as given:
                    unpack(parcel.files, given)
        outcome = Outcome(task.name, task.label)
        if not store.has(task.name):
            outcome = execute(task, recipe, store, start, _worker)
        if not recipe.shared and not outcome.error:
            files = files_in(store.result(task.name))
    except (HSWQError, OSError) as error:
        outcome = Outcome(task.name, task.label, str(error))
    if outcome.error:
        outcome = replace(outcome, error=f"{outcome.error} (on {socket.gethostname()})")
    return Parcel(outcome, files, node)


def files_in(folder: Path) -> Files:
    """A result as bytes, by name relative to its folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def unpack(files: Files, folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
