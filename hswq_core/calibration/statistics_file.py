"""The file of calibration statistics, a safetensors file.

There is one group per layer named by its module path in the diffusion model:
``<layer>.importance`` [C_in] = E|x|, ``<layer>.second_moment`` [C_in] = E[x^2], ``<layer>.mean`` [C_in] = E[x],
``<layer>.output`` [3] float64 = count, E[y], E[y^2], ``<layer>.count`` [1] float64 = input rows seen, and
optionally ``<layer>.rows`` [R, C_in] float16, a uniform sample of them. Convolutions with a kernel larger than
one have ``<layer>.patches`` [R, C_in * kH * kW] instead; files that have both are read by their patches. Layers whose
rows are the same (to_q, to_k, to_v) store them once; ``hswq.shared_rows`` names the layer that has them.

``<layer>.impact`` [P] float64 is the measured sensitivity, NaN where it was not measured; ``hswq.impact_of`` names
the P purposes, a format and a rounding each, separated by ", ". The model's own inputs, recorded to measure on, are
``inputs.<n>``; ``hswq.inputs`` says what each call was made of (``inputs_file``).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import CheckpointError, StatisticsError, TargetError
from ..files.checkpoint import CheckpointReader
from ..files.dtypes import dtype_name, tensor_bytes
from ..files.long_path import long_path
from ..files.writer import CheckpointWriter, FileLayout
from ..fingerprint import Fingerprint
from .inputs_file import checked_inputs, stored_inputs
from .rows import SAMPLES, Rows, StoredRows, stored_rows, tensor_of, width_of
from .statistics import NOISE_BINS, LayerStatistics, Statistics
from .statistics_schema import (
    parse_count,
    parse_counts,
    parse_counts_by_name,
    parse_impacts,
    parse_json,
    parse_layer,
    parse_names,
    parse_names_by_name,
    parse_rows,
    parse_shapes_by_name,
    parse_shares_by_name,
    rows_of_owner,
)

_FORMAT_VERSION = "1"


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write the file whole or not at all: a temporary file beside it, then a rename.

    Errors: StatisticsError when it cannot be written.
    """
    tensors, metadata = _content(statistics)
    shapes = {key: (dtype_name(t.dtype), tuple(t.shape)) for key, t in tensors.items()}
    samples = _samples(statistics)
    shapes |= {key: ("F16", tuple(rows.shape)) for key, rows in samples.items()}
    layout = FileLayout(shapes, metadata)
    try:
        long_path(path.parent).mkdir(parents=True, exist_ok=True)
        # Not the safetensors library: killed while it writes, it leaves files behind that no one knows.
        with CheckpointWriter(path, layout, overwrite=True) as writer:
            for key, tensor in tensors.items():
                writer.write(key, [tensor_bytes(tensor)])
            for key, rows in samples.items():  # one layer's rows in memory at a time
                writer.write(key, [tensor_bytes(tensor_of(rows))])
    except (OSError, TargetError) as error:
        reason = error.what if isinstance(error, TargetError) else error.strerror
        raise StatisticsError(
            f"the statistics could not be written ({reason})", where=path, remedy="Free disk space or check the folder"
        ) from error


def load_statistics(path: Path) -> Statistics:
    """Read a statistics file. The rows are checked, but stay in the file until they are needed.

    Errors: StatisticsError when it is missing, damaged or something else.
    """
    check_readable(path)
    remedy = "Calibrate again, or choose a file that HSWQ calibration wrote"
    try:
        with CheckpointReader(path) as file:
            if file.metadata.get("hswq.kind") != "statistics":
                raise StatisticsError("this is not an HSWQ statistics file", where=path, remedy=remedy)
            tensors = {key: file.tensor(key) for key in file.tensors if not key.endswith(SAMPLES)}
            return _parse(tensors, stored_rows(path), file.metadata)
    except (OSError, CheckpointError, ValueError, RuntimeError) as error:
        reason = error.what if isinstance(error, CheckpointError) else error
        raise StatisticsError(f"the statistics file is damaged ({reason})", where=path, remedy=remedy) from error


def check_readable(path: Path) -> None:
    """Errors: StatisticsError when there is no file of this name, or it may not be read."""
    place = long_path(path)
    if os.path.isdir(place):
        raise StatisticsError(
            "this is a folder, not a statistics file", where=path, remedy="Choose another name, or move the folder away"
        )
    if not os.path.isfile(place):
        raise StatisticsError("there is no such statistics file", where=path, remedy="Calibrate first")
    try:
        with place.open("rb"):
            pass
    except OSError as error:
        raise StatisticsError(
            f"the statistics file cannot be read ({error.strerror})", where=path, remedy="Check its permissions"
        ) from error


def with_stored_rows(statistics: Statistics, path: Path) -> Statistics:
    """The same statistics with their rows in the file to which they were just written.

    Errors: OSError when it cannot be opened.
    """
    stored = stored_rows(path)
    owners = _owners(statistics)
    layers = {
        name: replace(layer, rows=rows_of_owner(owners[name], stored)) if name in owners else layer
        for name, layer in statistics.layers.items()
    }
    return replace(statistics, layers=layers)


def _content(statistics: Statistics) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    tensors: dict[str, torch.Tensor] = {}
    purposes = statistics.purposes
    for name, layer in statistics.layers.items():
        tensors[f"{name}.importance"] = layer.importance.float()
        tensors[f"{name}.second_moment"] = layer.second_moment.float()
        tensors[f"{name}.mean"] = layer.mean.float()
        tensors[f"{name}.output"] = layer.output_sums / torch.tensor([1.0, *[layer.output_sums[0]] * 2])
        tensors[f"{name}.count"] = torch.tensor([layer.input_rows], dtype=torch.float64)
        if layer.impacts:
            measured = [layer.impacts.get(purpose, math.nan) for purpose in purposes]
            tensors[f"{name}.impact"] = torch.tensor(measured, dtype=torch.float64)
    input_tensors, inputs = stored_inputs(statistics.inputs)
    idle = {"hswq.never_ran": json.dumps(statistics.never_ran)} if statistics.never_ran else {}
    return tensors | input_tensors, idle | {
        "hswq.kind": "statistics",
        "hswq.format_version": _FORMAT_VERSION,
        "hswq.runs": str(statistics.runs),
        "hswq.samples": str(statistics.samples),
        "hswq.steps": str(statistics.steps),
        "hswq.partial_runs": str(statistics.partial_runs),
        "hswq.samplers": json.dumps(sorted(statistics.samplers)),
        "hswq.noise_levels": json.dumps(statistics.noise_levels),
        "hswq.inputs": json.dumps(inputs),
        "hswq.impact_of": ", ".join(purposes),
        "hswq.source": statistics.source,
        "hswq.patches": statistics.patches,
        "hswq.left_out": json.dumps(statistics.left_out),
        "hswq.shapes": json.dumps({name: layer.shape for name, layer in statistics.layers.items()}),
        "hswq.model_fingerprint": statistics.fingerprint.text if statistics.fingerprint else "",
        "hswq.model_layers": json.dumps(statistics.fingerprint.layers if statistics.fingerprint else ()),
        "hswq.shared_rows": json.dumps({n: owner for n, owner in _owners(statistics).items() if n != owner}),
    }


def _owners(statistics: Statistics) -> dict[str, str]:
    """Which layer's rows each layer with rows has: its own, or those of the first that has the same."""
    first: dict[int, str] = {}
    with_rows = ((name, layer.rows) for name, layer in statistics.layers.items() if layer.rows is not None)
    return {name: first.setdefault(id(rows), name) for name, rows in with_rows}


def _samples(statistics: Statistics) -> dict[str, Rows]:
    """The samples by the key they are stored under: ``rows`` as wide as a layer's input, or wider ``patches``."""
    found: dict[str, Rows] = {}
    for owner in _owners(statistics).values():
        layer = statistics.layers[owner]
        if layer.rows is not None:
            found[f"{owner}.{'patches' if width_of(layer.rows) > layer.channels else 'rows'}"] = layer.rows
    return found


def _parse(tensors: dict[str, torch.Tensor], rows: Mapping[str, StoredRows], metadata: Mapping[str, str]) -> Statistics:
    shared_rows = parse_names_by_name(metadata, "hswq.shared_rows")
    shapes = parse_shapes_by_name(metadata, "hswq.shapes")
    purposes = purposes_in(metadata)
    layers: dict[str, LayerStatistics] = {}
    for key in tensors:
        name, _, part = key.rpartition(".")
        if part != "output":
            continue
        input_rows, means, output_sums = parse_layer(name, tensors)
        layers[name] = LayerStatistics(
            input_rows=input_rows,
            input_sums=means * input_rows,
            output_sums=output_sums,
            rows=parse_rows(name, shared_rows.get(name, name), means.shape[1], rows),
            impacts=parse_impacts(name, tensors, purposes),
            shape=shapes.get(name, ()),
        )
    if not layers:
        raise ValueError("no layers")
    inputs = tuple(checked_inputs(parse_json(metadata, "hswq.inputs", []), tensors))
    return replace(described(metadata), layers=layers, inputs=inputs)


def purposes_in(metadata: Mapping[str, str]) -> list[str]:
    """What the file has impacts for."""
    return [purpose for purpose in metadata.get("hswq.impact_of", "").split(", ") if purpose]


def described(metadata: Mapping[str, str]) -> Statistics:
    """What the header says of the runs; no layers and no inputs. Errors: ValueError when it cannot be read."""
    return Statistics(
        layers={},
        runs=parse_count(metadata, "hswq.runs"),
        samples=parse_count(metadata, "hswq.samples"),
        steps=parse_count(metadata, "hswq.steps"),
        partial_runs=parse_count({"hswq.partial_runs": "0", **metadata}, "hswq.partial_runs"),
        fingerprint=Fingerprint.parse(
            metadata.get("hswq.model_fingerprint", ""), parse_names(metadata, "hswq.model_layers")
        ),
        samplers=frozenset(parse_names(metadata, "hswq.samplers")),
        noise_levels=parse_counts(metadata, "hswq.noise_levels", NOISE_BINS),
        source=metadata.get("hswq.source", ""),
        patches=metadata.get("hswq.patches", ""),
        left_out=parse_counts_by_name(metadata, "hswq.left_out"),
        never_ran=parse_shares_by_name(metadata, "hswq.never_ran"),
    )
