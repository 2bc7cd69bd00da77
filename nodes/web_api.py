"""Events that tell the page how far a node is, and answers to its requests, such as for the chart of HSWQ Quantize.

Everything here is an extra. Without the page's part of this pack (or without a server, as in a script that imports
the nodes) the nodes work the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths

from ..hswq_core.api import inspect, size_curve
from ..hswq_core.calibration import Statistics, load_statistics
from ..hswq_core.calibration.coverage import coverage_notes, coverage_warnings
from ..hswq_core.calibration.summary import summarize
from ..hswq_core.errors import HSWQError
from ..hswq_core.files.checkpoint import CheckpointReader
from ..hswq_core.files.inspection import Inspection, mode_of
from ..hswq_core.files.modelspec import origin_of
from ..hswq_core.files.names import safe_file_name
from ..hswq_core.files.source import FileIdentity
from ..hswq_core.options import QuantizeOptions
from ..hswq_core.planning.matched_source import holds_model_of, names_differ
from ..hswq_core.progress import Progress
from ..hswq_core.recipes import DEFAULT_RECIPE, RECIPES
from ..hswq_core.sensitivity.rules import has_impacts
from ..hswq_core.version import __version__
from .common import quantize_options, session_for, statistics_folder
from .estimate import estimate_of
from .events import prompt_server
from .found_source import find_source
from .sources import CALIBRATED, SOURCES, list_of, model_path

_one_at_a_time = ThreadPoolExecutor(1, "hswq-chart")
"""For answers that take long, so that pages that wait do not use up the server's own threads."""
_answers: dict[tuple[FileIdentity, FileIdentity, QuantizeOptions], dict[str, object]] = {}
_MAX_ANSWERS = 32
Work = Callable[[Mapping[str, str], Progress], dict[str, object]]


class _ClientGoneError(Exception):
    """The page that asked has closed its connection."""


def add_routes() -> None:
    """Routes that the page requests with GET; errors are 400 with ``error``.

    - /hswq/curve: sizes and layers by keep ratio, from a session's file; ``waiting`` while it has none
    - /hswq/file: what a checkpoint or diffusion model holds
    - /hswq/files: those of a list that are in a format
    - /hswq/session: what a session's file says of its runs
    - /hswq/recipes: what each recipe decides, and the one that a new node starts with
    - /hswq/version: this pack's
    """
    server = prompt_server()
    if server is None:
        return
    from aiohttp import web

    async def answer(work: Work, request: Any, executor: Executor | None) -> Any:
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "same-site", "none"):
            return web.json_response({"error": "asked from another site"}, status=403)

        def stop_if_gone(_done: int, _total: int) -> None:
            if request.transport is None or request.transport.is_closing():
                raise _ClientGoneError

        try:
            # Reading headers and ranking layers, or reading all weights, must not block the server.
            loop = asyncio.get_running_loop()
            return web.json_response(await loop.run_in_executor(executor, work, request.query, stop_if_gone))
        except _ClientGoneError:
            return web.Response(status=499)
        except (HSWQError, OSError) as error:
            return web.json_response({"error": str(error)}, status=400)

    def serve(path: str, work: Work, executor: Executor | None = None) -> None:
        @server.routes.get(path)
        async def asked(request: Any) -> Any:
            return await answer(work, request, executor)

    serve("/hswq/curve", _curve, _one_at_a_time)
    works = {"file": _file, "files": _files, "session": _session, "recipes": _recipes, "version": _version}
    for name, work in works.items():
        serve(f"/hswq/{name}", work)


def file_summary(found: Inspection) -> dict[str, object]:
    """The content of the loaders' badge."""
    return {
        "name": Path(found.file).name,
        "format": found.format,
        "quantized_layers": len(found.quantized),
        "grid": found.grid,
        "other_layers": len(found.unquantized),
        "dtype": found.unquantized_dtype,
        "nbytes": found.diffusion_model_bytes,
        "origin": origin_of(found.metadata),
        "predicted_error": found.predicted_error,
    }


def _file(query: Mapping[str, str], _progress: Progress) -> dict[str, object]:
    return file_summary(inspect(model_path(query.get("list", ""), query.get("name", ""))))


def _files(query: Mapping[str, str], _progress: Progress) -> dict[str, object]:
    folder, kind = query.get("list", ""), query.get("kind", "")
    if folder not in SOURCES:
        return {"names": []}
    paths = {name: folder_paths.get_full_path(folder, name) for name in folder_paths.get_filename_list(folder)}
    return {"names": [name for name, path in paths.items() if path and mode_of(Path(path)) == kind]}


def _session(query: Mapping[str, str], _progress: Progress) -> dict[str, object]:
    stored = _session_path(query)
    if not stored.exists():
        return {"images": 0}
    found = summarize(stored)
    return {
        "images": found.runs.samples,
        "noise_levels": found.runs.noise_levels,
        "notes": coverage_notes(found.runs),
        "warnings": coverage_warnings(found.runs),
    }


def _recipes(_query: Mapping[str, str], _progress: Progress) -> dict[str, object]:
    return {"recipes": {name: dict(decided) for name, decided in RECIPES.items()}, "default": DEFAULT_RECIPE}


def _version(_query: Mapping[str, str], _progress: Progress) -> dict[str, object]:
    return {"version": __version__}


def _session_path(query: Mapping[str, str]) -> Path:
    session = session_for(query.get("session", ""), query.get("file", "").split("\n"))
    return statistics_folder() / safe_file_name(session, "session name")


@lru_cache(maxsize=1)
def _read(identity: FileIdentity) -> Statistics:
    return load_statistics(identity.path)


def _statistics_in(path: Path) -> Statistics:
    """The statistics in a session's file. The page must never change a session, so none is opened."""
    try:
        return _read(FileIdentity.of(path, path.stat()))
    except FileNotFoundError:
        return load_statistics(path)  # raises its own error


def _curve(query: Mapping[str, str], progress: Progress) -> dict[str, object]:
    stored = _session_path(query)
    if not stored.exists():
        return {"waiting": True}
    progress(0, 1)  # a page may have gone while others were answered
    return _curve_of(stored, query, progress)


def _curve_of(stored: Path, query: Mapping[str, str], progress: Progress) -> dict[str, object]:
    # Patches change no size: the chart of a merge is that of the file below it.
    statistics = replace(_statistics_in(stored), patches="")
    if _is_of_another_model(statistics, query):
        return {"waiting": True}
    options = chosen = quantize_options(dict(query))
    if options.selection != "measured":
        # The chart itself varies the keep ratio, and rounding changes neither sizes nor ranks, only predicted errors.
        options = quantize_options({k: v for k, v in query.items() if k not in ("keep_ratio", "rounding")})
    if options.selection == "measured" and not has_impacts(statistics, options):
        answer: dict[str, Any] = {"waiting": True, "calibrated": True}
        with contextlib.suppress(HSWQError, OSError), contextlib.ExitStack() as stack:
            found = find_source(query.get("source", ""), statistics, stack)
            answer["estimate"] = estimate_of(found, statistics, chosen, None)
        return answer
    with contextlib.ExitStack() as stack:
        found = find_source(query.get("source", ""), statistics, stack)
        asked = (found.file.identity, FileIdentity.of(stored, stored.stat()), options)
        if asked not in _answers:
            if len(_answers) >= _MAX_ANSWERS:
                _answers.clear()
            curve = size_curve(found.matched or found.file, statistics, options, progress=progress)
            _answers[asked] = curve.as_dict()
        answer = _answers[asked] | {"budgeted": bool(options.budget)}
        with contextlib.suppress(HSWQError):  # of a file whose tensors ComfyUI renames, only the size is known
            answer["estimate"] = estimate_of(found, statistics, chosen, answer["planned_bytes"])
    return answer


def _is_of_another_model(statistics: Statistics, query: Mapping[str, str]) -> bool:
    """Whether a session is known not to be of the model that is chosen: by its name, or as the file behind the node."""
    name, behind = query.get("source", ""), query.get("file", "")
    name = behind if name == CALIBRATED else name
    folder = list_of(name)
    if folder is None:
        return False  # it is a merge of several, is gone, or is not known
    with contextlib.suppress(HSWQError, OSError), CheckpointReader(model_path(folder, name)) as reader:
        as_calibrated = statistics.source == f"{folder}/{name}" and names_differ(reader, statistics)
        return not (as_calibrated or holds_model_of(reader, statistics) is not None)
    return False
