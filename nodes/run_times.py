"""How long steps took on this machine, in output/hswq/run_times.json: what the next one of the same kind will take."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import torch

from ..hswq_core.files.replace import replace
from ..hswq_core.files.source import TensorInfo
from ..hswq_core.files.unfinished import temporary_beside
from ..hswq_core.options import QuantizeOptions
from .common import statistics_folder

Step = Literal["measuring", "rounding"]
_MOST_KINDS = 200


def kind_of(step: Step, options: QuantizeOptions, weights: Iterable[TensorInfo], device: torch.device) -> str:
    """What steps have in common that take about as long: what is done, to how many weights, on which device."""
    size = sum(info.numel for info in weights)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    rotated = " rotated" if options.rotate and step == "rounding" else ""
    return f"{step} {options.measured_as}{rotated}, {options.part}, {size} weights, {named}"


@contextlib.contextmanager
def timed(kind: str) -> Iterator[None]:
    """Remembers how long the block took, if it ends well."""
    began = time.monotonic()
    yield
    _remember(kind, time.monotonic() - began)


def seconds_of(kind: str) -> float | None:
    """What the latest step of this kind took; ``None`` where there was none."""
    return _read().get(kind)


def _path() -> Path:
    return statistics_folder() / "run_times.json"


def _read() -> dict[str, float]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_path().read_text("utf-8"))
        if isinstance(found, dict):
            return {str(kind): float(took) for kind, took in found.items() if isinstance(took, (int, float))}
    return {}


def _remember(kind: str, seconds: float) -> None:
    known = _read()
    known.pop(kind, None)
    kept = [*[*known.items()][-_MOST_KINDS:], (kind, round(seconds, 3))]
    made = temporary_beside(_path())
    with contextlib.suppress(OSError):  # the file was written, whether or not this can be
        made.write_text(json.dumps(dict(kept), indent=1), "utf-8")
        replace(made, _path())
