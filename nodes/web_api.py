"""What the page asks and is told: events while a node works, and the chart of HSWQ Quantize.

Everything here is an extra. Without the page's part of this pack (or without a server, as in a script that imports
the nodes) the nodes work the same.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..hswq_core.api import inspect, size_curve
from ..hswq_core.calibration import Statistics, load_statistics
from ..hswq_core.errors import HSWQError
from ..hswq_core.files.inspection import Inspection
from ..hswq_core.files.names import safe_file_name
from ..hswq_core.files.source import FileIdentity
from ..hswq_core.options import QuantizeOptions
from ..hswq_core.progress import Progress
from ..loader.calibrate import StepReport
from .common import quantize_options, session_for, statistics_folder
from .sources import find_source, model_path

_one_at_a_time = threading.Lock()
_answers: dict[tuple[FileIdentity, FileIdentity, QuantizeOptions], dict[str, object]] = {}
_MOST_ANSWERS = 32
Work = Callable[[Mapping[str, str], Progress], dict[str, object]]


class _GoneError(Exception):
    """Nobody waits for the answer any more."""


def announce(event: str, data: Mapping[str, Any]) -> None:
    """Tell the page that queued the running workflow: ``hswq.<event>``."""
    server = _server()
    if server is not None:
        server.send_sync(f"hswq.{event}", dict(data), server.client_id)


def add_routes() -> None:
    """GET /hswq/curve: sizes and layers by keep ratio, from a session's file; ``waiting`` while it has none.

    GET /hswq/file: what a checkpoint or diffusion model holds. Errors are 400 with ``error``.
    """
    server = _server()
    if server is None:
        return
    from aiohttp import web

    async def answer(work: Work, request: Any) -> Any:
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "same-site", "none"):
            return web.json_response({"error": "asked from another site"}, status=403)

        def stop_if_gone(_done: int, _total: int) -> None:
            if request.transport is None or request.transport.is_closing():
                raise _GoneError

        try:
            # Headers are read and layers ranked, or all weights: the server must not stand still meanwhile.
            return web.json_response(await asyncio.to_thread(work, request.query, stop_if_gone))
        except _GoneError:
            return web.Response(status=499)
        except (HSWQError, OSError) as error:
            return web.json_response({"error": str(error)}, status=400)

    @server.routes.get("/hswq/curve")
    async def curve(request: Any) -> Any:
        return await answer(_curve, request)

    @server.routes.get("/hswq/file")
    async def file(request: Any) -> Any:
        return await answer(_file, request)


def file_summary(found: Inspection) -> dict[str, object]:
    """What the loaders' badge shows."""
    return {
        "name": Path(found.file).name,
        "format": found.format,
        "quantized_layers": len(found.quantized),
        "grid": found.grid,
        "other_layers": len(found.unquantized),
        "dtype": found.unquantized_dtype,
        "nbytes": found.diffusion_model_bytes,
    }


def _file(query: Mapping[str, str], _progress: Progress) -> dict[str, object]:
    return file_summary(inspect(model_path(query.get("list", ""), query.get("name", ""))))


def _session_path(query: Mapping[str, str]) -> Path:
    session = session_for(query.get("session", ""), query.get("file", ""))
    return statistics_folder() / safe_file_name(session, "session name")


@lru_cache(maxsize=1)
def _read(identity: FileIdentity) -> Statistics:
    return load_statistics(identity.path)


def _statistics_in(path: Path) -> Statistics:
    """What a session's file holds. Looking at it must never change a session, so none is opened."""
    try:
        return _read(FileIdentity.of(path, path.stat()))
    except FileNotFoundError:
        return load_statistics(path)  # with its own words


def _curve(query: Mapping[str, str], progress: Progress) -> dict[str, object]:
    stored = _session_path(query)
    if not stored.exists():
        return {"waiting": True}
    with _one_at_a_time:
        progress(0, 1)  # a page may have gone while others were answered
        return _curve_of(stored, query, progress)


def _curve_of(stored: Path, query: Mapping[str, str], progress: Progress) -> dict[str, object]:
    # Patches change no size: the chart of a merge is that of the file below it.
    statistics = replace(_statistics_in(stored), patches="")
    _, path = find_source(query.get("source", ""), statistics)
    # The chart itself varies the keep ratio, and rounding changes neither sizes nor ranks.
    options = quantize_options({k: v for k, v in query.items() if k not in ("keep_ratio", "rounding")})
    if options.selection == "measured" and statistics.complete_impacts(options.impact_purpose) is None:
        return {"waiting": True, "calibrated": True}
    asked = (FileIdentity.of(path, path.stat()), FileIdentity.of(stored, stored.stat()), options)
    if asked not in _answers:
        if len(_answers) >= _MOST_ANSWERS:
            _answers.clear()
        _answers[asked] = size_curve(path, statistics, options, progress=progress).as_dict()
    return _answers[asked] | {"budgeted": bool(options.budget)}


def calibration_events(node: str | None, session: str, whole: int = 0) -> Callable[[StepReport], None]:
    """Turns the steps of calibrated sampling runs into ``hswq.progress`` events of one node.

    Args:
        whole: how many images there are to be, where that is known; time left is told for all of them.
    """
    began, first = 0.0, -1.0

    def tell(report: StepReport) -> None:
        nonlocal began, first
        before = report.images if whole else 0
        goal = whole or report.batch
        done = before + report.batch * report.step / report.steps
        if first < 0 or (report.step == 1 and not whole):
            began, first = time.monotonic(), done  # the first step loads models, and says nothing about the rest
        left = (time.monotonic() - began) * (goal - done) / (done - first) if done > first else None
        announce(
            "progress",
            {
                "node": node,
                "session": session,
                "image": report.images + report.batch,
                "images": whole or report.images + report.batch,
                "step": report.step,
                "steps": report.steps,
                "share": min(1.0, done / goal),
                "seconds_left": left,
                "noise_levels": report.noise_levels,
                "left_out": report.left_out,
            },
        )

    return tell


def _server() -> Any:
    from server import PromptServer

    return getattr(PromptServer, "instance", None)
