"""The same tasks on a Ray cluster: Ray places them, tries them again when a worker or a node dies, and shows them.

Results go to the store's folder where all nodes share it, otherwise back to the driver through Ray's object store.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    """What a task hands on.

    Attributes:
        files: its result, where no folder is shared.
        node: Ray's name of the node that tried it; empty when it died each time that it was tried.
    """

    outcome: Outcome
    files: Files | None = None
    node: str = ""


def run_on_ray(
    recipe: Recipe, tasks: Sequence[Task], store: Store, began: str, address: str, workers: int
) -> Iterator[Outcome]:
    """What became of each task that was not done yet, as they end.

    A task goes to Ray when what it needs is done. One that fails is tried again on another node, if there is one: it
    may be the node that is broken, and a node on which everything fails at once gets more tasks than the others.

    Args:
        address: of a running cluster; without one, a cluster of this machine is started for this run.
        workers: how many tasks at a time, on such a cluster.

    Errors: PlanError when Ray is not installed or the cluster cannot be reached.
    """
    ray = _connected(address, workers)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=recipe.attempts)(_carry_out_here)
        parcels, running = dict[str, Any](), dict[Any, tuple[Task, int]]()

        def send(task: Task, attempt: int, **options: Any) -> None:
            needs = []
            for need in () if recipe.shared else task.needs:
                if need.name not in parcels:
                    outcome = Outcome(need.name, need.label)
                    parcels[need.name] = ray.put(Parcel(outcome, files_in(store.result(need.name))))
                needs.append(parcels[need.name])
            sent = remote.options(name=task.label, **options).remote(task, recipe, str(store.folder), began, *needs)
            running[sent] = task, attempt

        waiting = [task for task in tasks if not store.has(task.name)]
        done = {task.name for task in tasks} - {task.name for task in waiting}
        failed: set[str] = set()
        while waiting or running:
            for task in list(waiting):
                missing = next((need for need in task.needs if need.name in failed), None)
                if missing is not None:
                    failed.add(task.name)
                    yield Outcome.not_tried(task, missing.label)
                elif all(need.name in done for need in task.needs):
                    send(task, 1)
                else:
                    continue
                waiting.remove(task)
            if not running:
                continue
            (ended,), _ = ray.wait(list(running), num_returns=1)
            task, attempt = running.pop(ended)
            parcel = _received(ray, ended, task, store)
            if parcel.outcome.error and parcel.node and attempt < recipe.attempts:
                send(task, attempt + 1, **_away_from(ray, parcel.node, gpus))
                continue
            (failed if parcel.outcome.error else done).add(task.name)
            if parcel.files is not None:
                parcels[task.name] = ended
            yield parcel.outcome
    finally:
        ray.shutdown()


def _away_from(ray: Any, node: str, gpus: int) -> dict[str, Any]:
    """Options that send a task to another node than this one, if there is one."""

    def fits(other: dict[str, Any]) -> bool:
        resources = other["Resources"]
        return other["Alive"] and resources.get("CPU", 0) >= 1 and resources.get("GPU", 0) >= gpus

    others = [other["NodeID"] for other in ray.nodes() if other["NodeID"] != node and fits(other)]
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


def _received(ray: Any, ended: Any, task: Task, store: Store) -> Parcel:
    try:
        parcel: Parcel = ray.get(ended)
        if parcel.files is not None:
            with store.making(task.name) as folder:
                unpack(parcel.files, folder)
        return parcel
    except ray.exceptions.RayError as error:
        said = " ".join(str(error).split())[:300]
        return Parcel(Outcome(task.name, task.label, f"its worker died every time: {said}"))
    except HSWQError as error:
        return Parcel(Outcome(task.name, task.label, str(error)))


def _carry_out_here(task: Task, recipe: Recipe, folder: str, began: str, *needs: Parcel) -> Parcel:
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
            outcome = carry_out(task, recipe, store, began, _worker, attempts=1)
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
