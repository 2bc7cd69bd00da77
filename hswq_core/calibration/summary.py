"""What a statistics file holds, by its header alone: a session's rows are gigabytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, StatisticsError
from ..files.checkpoint import CheckpointReader
from .coverage import coverage_lines, coverage_notes, coverage_warnings
from .rows import SAMPLES
from .statistics import Statistics
from .statistics_file import check_readable, described, purposes_in
from .statistics_schema import parse_names_by_name


@dataclass(frozen=True)
class StatisticsSummary:
    """Attributes:
    runs: what the header says of the runs: a value without layers.
    layers, layers_with_rows: how many were measured, and how many of them have a sample of their input.
    rows: the largest sample of a layer.
    impacts_of: the purposes that impacts were measured for.
    """

    file: str
    bytes: int
    runs: Statistics
    layers: int
    layers_with_rows: int
    rows: int
    impacts_of: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        runs = self.runs
        return {
            "file": self.file, "format": "statistics", "bytes": self.bytes, "model": runs.source,
            "patches": runs.patches, "runs": runs.runs, "samples": runs.samples, "steps": runs.steps,
            "partial_runs": runs.partial_runs, "samplers": sorted(runs.samplers),
            "noise_levels": list(runs.noise_levels), "layers": self.layers, "layers_with_rows": self.layers_with_rows,
            "rows": self.rows, "impacts_of": list(self.impacts_of), "left_out": dict(runs.left_out),
            "notes": coverage_notes(runs), "warnings": coverage_warnings(runs),
        }  # fmt: skip

    def __str__(self) -> str:
        runs = self.runs
        sampled = f", up to {self.rows} rows of {self.layers_with_rows}" if self.rows else ", no rows"
        lines = [
            self.file,
            "  format     statistics of a calibration",
            f"  size       {self.bytes / 1e6:,.1f} MB",
            f"  model      {runs.source or 'unknown'}{' with patches' if runs.patches else ''}",
            f"  measured   {runs.samples} images in {runs.runs} runs, {runs.steps} steps",
            f"  noise      {' '.join(map(str, runs.noise_levels))} steps by tenth, from clean to pure noise",
            f"  samplers   {', '.join(sorted(runs.samplers)) or 'unknown'}",
            f"  layers     {self.layers}{sampled}",
            f"  impacts    {', '.join(self.impacts_of) or 'not measured'}",
        ]
        return "\n".join([*lines, *coverage_lines(runs)])


def is_statistics(path: Path) -> bool:
    """Whether a file says that it holds statistics; damaged files and others do not."""
    try:
        with CheckpointReader(path) as file:
            return file.metadata.get("hswq.kind") == "statistics"
    except CheckpointError:
        return False


def summarize(path: Path) -> StatisticsSummary:
    """Look at the header. Errors: StatisticsError when it is not a statistics file, or damaged."""
    check_readable(path)
    try:
        with CheckpointReader(path) as file:
            metadata, keys = file.metadata, list(file.tensors)
            samples = {key: file.tensors[key].shape for key in keys if key.endswith(SAMPLES)}
        runs, shared = described(metadata), parse_names_by_name(metadata, "hswq.shared_rows")
    except (CheckpointError, ValueError) as error:
        reason = error.what if isinstance(error, CheckpointError) else error
        raise StatisticsError(
            f"the statistics file cannot be read ({reason})", where=path, remedy="Calibrate again, or choose another"
        ) from error
    return StatisticsSummary(
        file=str(path),
        bytes=path.stat().st_size,
        runs=runs,
        layers=sum(key.endswith(".output") for key in keys),
        layers_with_rows=len({key.rpartition(".")[0] for key in samples} | shared.keys()),
        rows=max((shape[0] for shape in samples.values() if math.prod(shape)), default=0),
        impacts_of=tuple(purposes_in(metadata)),
    )
