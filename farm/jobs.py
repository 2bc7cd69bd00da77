"""What each kind of task does: results of the tasks that it needs go in, a folder of files comes out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hswq_core import load_statistics, merge_statistics, quantize
from hswq_core.calibration import save_statistics
from hswq_core.errors import CheckpointError, TargetError
from hswq_core.files.names import EXTENSION, default_name
from hswq_core.options import ROUNDINGS, QuantizeOptions, check_choice
from hswq_core.publishing import About, publish
from hswq_core.sensitivity.rules import has_impacts

from .headers import has_text_encoder
from .prove import ProofRequest, prove
from .tasks import KINDS, Kind, Task
from .worker import Worker

STATISTICS = f"statistics{EXTENSION}"
Job = Callable[[Task, Sequence[Path], Path, Worker], None]


def run_task(task: Task, needs: Sequence[Path], out: Path, worker: Worker) -> None:
    """Carry a task out.

    Args:
        needs: the folders of the tasks that it needs, in their order.
        out: an empty folder for what it makes.

    Errors: HSWQError that says what is wrong and where.
    """
    _JOBS[task.kind](task, needs, out, worker)


def _calibrate(task: Task, needs: Sequence[Path], out: Path, worker: Worker) -> None:
    if not has_text_encoder(task.checkpoint):
        raise CheckpointError(
            "a diffusion model alone has no text encoder to calibrate with",
            where=task.checkpoint,
            remedy="Calibrate it in ComfyUI's page, or give a whole checkpoint",
        )
    asked: dict[str, Any] = {k: v for k, v in task.settings.items() if k not in ("shards", "first", "threads")}
    asked |= {"sampler_name": asked.pop("sampler"), "session": task.name}
    worker.run(
        {
            "original": _loader(task),
            "run": {
                "class_type": "HSWQCalibrateRun",
                "inputs": asked | {"model": ["original", 0], "clip": ["original", 1]},
            },
            **_ending_in("run"),
        }
    )
    if not _session(worker, task).is_file():
        raise _not_written(worker, task)
    shutil.move(_session(worker, task), out / STATISTICS)


def _merge(task: Task, needs: Sequence[Path], out: Path, worker: Worker) -> None:
    save_statistics(merge_statistics([folder / STATISTICS for folder in needs]), out / STATISTICS)


def _sensitivity(task: Task, needs: Sequence[Path], out: Path, worker: Worker) -> None:
    session = _session(worker, task)
    session.parent.mkdir(parents=True, exist_ok=True)  # the worker's server may not have started yet
    shutil.copyfile(needs[0] / STATISTICS, session)
    mode, rounding = str(task.settings["purpose"]).split()
    inputs = {
        "model": ["original", 0], "stats": ["stats", 0], "mode": mode, "rounding": rounding,
        "probes": task.settings["probes"], "method": task.settings["method"],
    }  # fmt: skip
    worker.run(
        {
            "original": _loader(task),
            "stats": {"class_type": "HSWQLoadStatistics", "inputs": {"file": session.name}},
            "measure": {"class_type": "HSWQMeasureSensitivity", "inputs": inputs},
            **_ending_in("measure"),
        }
    )
    options = QuantizeOptions(mode=mode, rounding=check_choice("rounding", rounding, ROUNDINGS))
    if not has_impacts(load_statistics(session), options):
        raise _not_written(worker, task)
    shutil.move(session, out / STATISTICS)


def _quantize(task: Task, needs: Sequence[Path], out: Path, worker: Worker) -> None:
    options = QuantizeOptions(**task.settings)  # type: ignore[arg-type]
    statistics = load_statistics(needs[0] / STATISTICS)
    name = default_name(task.checkpoint.name, statistics.samples, options)
    quantize(task.checkpoint, out / name, statistics, options)


def _prove(task: Task, needs: Sequence[Path], out: Path, worker: Worker) -> None:
    candidate = written_in(needs[0])
    asked: dict[str, Any] = {key: value for key, value in task.settings.items() if key != "threads"}
    asked |= {"sampler_name": asked.pop("sampler")}
    # Another output of the same checkpoint may be next.
    name = f"{candidate.parent.name}/{candidate.name}"
    request = ProofRequest(task.checkpoint.name, name, keep_reference=True, **asked)
    _, page = prove(worker, request)
    for file in page.parent.iterdir():
        shutil.move(file, out / file.name)


def _card(task: Task, needs: Sequence[Path], out: Path, worker: Worker) -> None:
    about = About(**task.settings)  # type: ignore[arg-type]
    proof = needs[1] / "proof.html" if len(needs) > 1 else None
    publish(written_in(needs[0]), out / "publish", about, proof=proof)


def written_in(folder: Path) -> Path:
    """The quantized file among a task's results."""
    return next(path for path in folder.iterdir() if path.suffix == EXTENSION)


def _loader(task: Task) -> dict[str, Any]:
    return {"class_type": "HSWQLoader", "inputs": {"ckpt_name": task.checkpoint.name}}


def _ending_in(node: str) -> dict[str, Any]:
    """What makes ComfyUI run a node that gives statistics: it runs what a node with a result to show needs."""
    return {
        "shown": {"class_type": "HSWQReport", "inputs": {"stats": [node, 0], "keep_ratio": 0.25}},
        "chart": {"class_type": "PreviewImage", "inputs": {"images": ["shown", 0]}},
    }


def _session(worker: Worker, task: Task) -> Path:
    return worker.output / "hswq" / f"{task.name}{EXTENSION}"


def _not_written(worker: Worker, task: Task) -> TargetError:
    """A session that the server keeps in memory and could not write, with what it said of that."""
    said = [line.partition("HSWQ: ")[2] for line in worker.log.splitlines() if "HSWQ: " in line]
    why = said[-1] if said else "its ComfyUI did not say why"
    return TargetError(f"the statistics were not written ({why})", where=_session(worker, task), remedy="See its log")


_JOBS: dict[Kind, Job] = dict(zip(KINDS, (_calibrate, _merge, _sensitivity, _quantize, _prove, _card), strict=True))
