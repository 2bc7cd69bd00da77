"""Calibration statistics: exact sums per layer, added up over runs and machines, kept in a safetensors file.

File format, one group per layer named by its module path in the diffusion model:
``<layer>.importance`` [C_in] = E|x|, ``<layer>.second_moment`` [C_in] = E[x^2], ``<layer>.mean`` [C_in] = E[x],
``<layer>.output`` [3] float64 = count, E[y], E[y^2], ``<layer>.count`` [1] float64 = input rows seen, and
optionally ``<layer>.rows`` [R, C_in] float16, a uniform sample of them. Convolutions with a kernel larger than
one have ``<layer>.patches`` [R, C_in * kH * kW] beside it, of which ``rows`` is the centre. Layers whose rows are the
same (to_q, to_k, to_v) store them once; ``hswq.shared_rows`` names the layer that has them.

``<layer>.impact`` [1] float64 is the measured sensitivity, where it was measured (``hswq.impact_of`` says for which
format and rounding). The model's own inputs, kept to measure on, are ``inputs.<n>``; ``hswq.inputs`` lists each
input's tensors by argument.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import StatisticsError
from ..files.checkpoint import remove_leftovers
from ..fingerprint import Fingerprint
from .inputs import ModelInput, join_inputs, spread

FORMAT_VERSION = "1"
NOISE_BINS = 10
_PARTS = ("importance", "second_moment", "mean", "output", "count")


@dataclass(frozen=True)
class LayerStatistics:
    """The sums of one layer: ``input_sums`` [3, C_in] = sum |x|, x, x^2; ``output_sums`` [3] = count, sum y, y^2.

    ``rows`` [R, K] is a uniform sample of what the flattened weight [C_out, K] is multiplied with; ``impact`` the
    relative error of the model's output when this layer alone is quantized, where it was measured; ``shape`` that of
    the weight, where it is known.
    """

    input_rows: int
    input_sums: torch.Tensor
    output_sums: torch.Tensor
    rows: torch.Tensor | None = None
    impact: float | None = None
    shape: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        return self.input_sums.shape[1]

    @property
    def importance(self) -> torch.Tensor:
        """E|x| per input channel, float64 [C_in]."""
        return self.input_sums[0] / self.input_rows

    @property
    def mean(self) -> torch.Tensor:
        """E[x] per input channel, float64 [C_in]."""
        return self.input_sums[1] / self.input_rows

    @property
    def second_moment(self) -> torch.Tensor:
        """E[x^2] per input channel, float64 [C_in]."""
        return self.input_sums[2] / self.input_rows

    @property
    def sensitivity(self) -> float:
        """The variance of all output elements, E[y^2] - E[y]^2."""
        count, total, squares = self.output_sums.tolist()
        return max(0.0, squares / count - (total / count) ** 2)


@dataclass(frozen=True)
class Statistics:
    """What calibration measured of one model. A value: adding two gives a third.

    ``noise_levels`` counts steps by tenths of the schedule, from clean to pure noise; ``inputs`` are some of the
    model's own; ``impact_of`` says what the layers' impacts were measured for, as in "v2 calibrated".
    """

    layers: Mapping[str, LayerStatistics]
    runs: int = 0
    samples: int = 0
    steps: int = 0
    fingerprint: Fingerprint | None = None
    samplers: frozenset[str] = field(default_factory=frozenset)
    noise_levels: tuple[int, ...] = (0,) * NOISE_BINS
    inputs: tuple[ModelInput, ...] = ()
    impact_of: str = ""

    def __add__(self, other: Statistics) -> Statistics:
        """The exact statistics of both together. Errors: StatisticsError when they are of different models."""
        if not self.layers:
            return other
        if not other.layers:
            return self
        check_same_model(self, other)
        merged_rows: dict[tuple[int, int], torch.Tensor] = {}
        layers = {**self.layers, **other.layers}
        for name in self.layers.keys() & other.layers.keys():
            layers[name] = _add(self.layers[name], other.layers[name], merged_rows)
        return Statistics(
            layers=layers,
            runs=self.runs + other.runs,
            samples=self.samples + other.samples,
            steps=self.steps + other.steps,
            fingerprint=self.fingerprint or other.fingerprint,
            samplers=self.samplers | other.samplers,
            noise_levels=tuple(a + b for a, b in zip(self.noise_levels, other.noise_levels, strict=True)),
            inputs=join_inputs(self.inputs, other.inputs),
            impact_of=self.impact_of or other.impact_of,
        )

    def check_not_empty(self) -> None:
        """Errors: StatisticsError when nothing was measured yet."""
        if not self.layers:
            raise StatisticsError("the statistics hold no run", do="Run a KSampler with the calibrated model first")

    def probes(self, count: int) -> list[ModelInput]:
        """Up to ``count`` of the kept inputs, spread over the noise levels."""
        return spread(self.inputs, count)

    def with_impacts(self, impacts: Mapping[str, float], impact_of: str) -> Statistics:
        """The same statistics with some layers' measured impacts, replacing those measured for something else."""
        known = {} if self.impact_of != impact_of else {n: e.impact for n, e in self.layers.items()}
        layers = {
            name: replace(layer, impact=impacts.get(name, known.get(name))) for name, layer in self.layers.items()
        }
        return replace(self, layers=layers, impact_of=impact_of)

    def digest(self) -> str:
        """A short hash of the sums, for the metadata of files made from them."""
        hashed = hashlib.sha256()
        for name in sorted(self.layers):
            layer = self.layers[name]
            hashed.update(name.encode("utf-8"))
            # Rounded as the file stores them, so that it is the same before and after a save.
            for values in (layer.importance, layer.second_moment, layer.mean):
                hashed.update(values.float().numpy().tobytes())
        return hashed.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the file whole or not at all: a temporary file beside it, then a rename."""
        tensors: dict[str, torch.Tensor] = {}
        shared_rows: dict[str, str] = {}
        owners: dict[int, str] = {}
        for name, layer in self.layers.items():
            tensors[f"{name}.importance"] = layer.importance.float()
            tensors[f"{name}.second_moment"] = layer.second_moment.float()
            tensors[f"{name}.mean"] = layer.mean.float()
            tensors[f"{name}.output"] = layer.output_sums / torch.tensor([1.0, *[layer.output_sums[0]] * 2])
            tensors[f"{name}.count"] = torch.tensor([layer.input_rows], dtype=torch.float64)
            if layer.rows is not None:
                owner = owners.setdefault(id(layer.rows), name)
                if owner != name:
                    shared_rows[name] = owner
                elif (taps := layer.rows.shape[1] // layer.channels) > 1:
                    tensors[f"{name}.patches"] = layer.rows.contiguous()
                    centre = layer.rows.view(len(layer.rows), -1, taps)[:, :, taps // 2]
                    tensors[f"{name}.rows"] = centre.contiguous()
                else:
                    tensors[f"{name}.rows"] = layer.rows.contiguous()
            if layer.impact is not None:
                tensors[f"{name}.impact"] = torch.tensor([layer.impact], dtype=torch.float64)
        inputs, named_inputs = [], {}
        for entry in self.inputs:
            keys = {k: named_inputs.setdefault(id(t), (f"inputs.{len(named_inputs)}", t))[0] for k, t in entry.items()}
            inputs.append(keys)
        tensors |= {key: tensor.contiguous() for key, tensor in named_inputs.values()}
        metadata = {
            "hswq.kind": "statistics",
            "hswq.format_version": FORMAT_VERSION,
            "hswq.runs": str(self.runs),
            "hswq.samples": str(self.samples),
            "hswq.steps": str(self.steps),
            "hswq.samplers": json.dumps(sorted(self.samplers)),
            "hswq.noise_levels": json.dumps(self.noise_levels),
            "hswq.inputs": json.dumps(inputs),
            "hswq.impact_of": self.impact_of,
            "hswq.shapes": json.dumps({name: layer.shape for name, layer in self.layers.items()}),
            "hswq.model_fingerprint": self.fingerprint.text if self.fingerprint else "",
            "hswq.shared_rows": json.dumps(shared_rows),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
            save_file(tensors, temporary, metadata=metadata)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StatisticsError(
                f"the statistics could not be written ({error})", where=path, do="Free disk space or check the folder"
            ) from error

    @staticmethod
    def load(path: Path) -> Statistics:
        """Read a statistics file. Errors: StatisticsError when it is missing, damaged or something else."""
        if not path.is_file():
            raise StatisticsError("there is no such statistics file", where=path, do="Calibrate first")
        remedy = "Calibrate again, or choose a file that HSWQ calibration wrote"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("hswq.kind") != "statistics":
                    raise StatisticsError("this is not an HSWQ statistics file", where=path, do=remedy)
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            return _parse(tensors, metadata)
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, AttributeError) as error:
            raise StatisticsError(f"the statistics file is damaged ({error})", where=path, do=remedy) from error


def merge(parts: Iterable[Statistics]) -> Statistics:
    """The sum of all parts, exact. Errors: StatisticsError when they are of different models."""
    total = Statistics(layers={})
    for part in parts:
        total = total + part
    return total


def check_same_model(a: Statistics, b: Statistics) -> None:
    """Errors: StatisticsError when the two were measured on different models."""
    if a.fingerprint and b.fingerprint and not a.fingerprint.matches(b.fingerprint):
        raise StatisticsError("the statistics are of different models", do="Merge only sessions of one model")
    for name in a.layers.keys() & b.layers.keys():
        if a.layers[name].channels != b.layers[name].channels:
            raise StatisticsError(
                f"the statistics are of different models: {a.layers[name].channels} and "
                f"{b.layers[name].channels} input channels",
                where=name,
                do="Merge only sessions of one model",
            )


def _parse(tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]) -> Statistics:
    shared_rows = json.loads(metadata.get("hswq.shared_rows", "{}"))
    shapes = json.loads(metadata.get("hswq.shapes", "{}"))
    layers: dict[str, LayerStatistics] = {}
    for key in tensors:
        name, _, part = key.rpartition(".")
        if part != "output":
            continue
        group = {p: tensors[f"{name}.{p}"].double() for p in _PARTS}
        rows = int(group["count"].item())
        owner = shared_rows.get(name, name)
        means = torch.stack([group["importance"], group["mean"], group["second_moment"]])
        count, mean, square = group["output"].tolist()
        if rows <= 0 or count <= 0 or not means.isfinite().all():
            raise ValueError(f"{name}: counts and means must be finite and positive")
        layers[name] = LayerStatistics(
            input_rows=rows,
            input_sums=means * rows,
            output_sums=torch.tensor([count, mean * count, square * count], dtype=torch.float64),
            rows=tensors.get(f"{owner}.patches", tensors.get(f"{owner}.rows")),
            impact=float(tensors[f"{name}.impact"]) if f"{name}.impact" in tensors else None,
            shape=tuple(shapes.get(name, ())),
        )
    if not layers:
        raise ValueError("no layers")
    return Statistics(
        layers=layers,
        runs=int(metadata["hswq.runs"]),
        samples=int(metadata["hswq.samples"]),
        steps=int(metadata["hswq.steps"]),
        fingerprint=Fingerprint.parse(metadata.get("hswq.model_fingerprint", "")),
        samplers=frozenset(json.loads(metadata.get("hswq.samplers", "[]"))),
        noise_levels=tuple(json.loads(metadata.get("hswq.noise_levels", json.dumps([0] * NOISE_BINS)))),
        inputs=tuple(
            {k: tensors[key] for k, key in entry.items()} for entry in json.loads(metadata.get("hswq.inputs", "[]"))
        ),
        impact_of=metadata.get("hswq.impact_of", ""),
    )


def _add(a: LayerStatistics, b: LayerStatistics, merged_rows: dict[tuple[int, int], torch.Tensor]) -> LayerStatistics:
    """The exact sum; layers that shared their rows in both parts share them in the sum."""
    rows = a.rows if b.rows is None else b.rows
    if a.rows is not None and b.rows is not None:
        pair = (id(a.rows), id(b.rows))
        if pair not in merged_rows:
            merged_rows[pair] = _merge_rows(a.rows, b.rows, a.input_rows, b.input_rows)
        rows = merged_rows[pair]
    return LayerStatistics(
        a.input_rows + b.input_rows,
        a.input_sums + b.input_sums,
        a.output_sums + b.output_sums,
        rows,
        b.impact if a.impact is None else a.impact,
        a.shape or b.shape,
    )


def _merge_rows(a: torch.Tensor, b: torch.Tensor, seen_a: int, seen_b: int) -> torch.Tensor:
    """A uniform sample of the union: each part gives rows in proportion to the rows it stands for."""
    if a.shape[1] != b.shape[1]:  # a session begun before patches were sampled
        return a if a.shape[1] > b.shape[1] else b
    size = min(max(len(a), len(b)), seen_a + seen_b)
    # Drawing without replacement from the union takes a hypergeometric number of rows from each part; for
    # a thousand rows of millions that is binomial. Seeded by the counts: merging is deterministic.
    generator = torch.Generator().manual_seed(seen_a * 31 + seen_b)
    wanted = int((torch.rand(size, generator=generator) < seen_a / (seen_a + seen_b)).sum())
    from_a = max(size - len(b), min(wanted, len(a)))
    from_b = min(size - from_a, len(b))
    merged = a.new_empty(from_a + from_b, a.shape[1])  # samples of all layers are gigabytes: each row is copied once
    for part, place in ((a, merged[:from_a]), (b, merged[from_a:])):
        torch.index_select(part, 0, torch.randperm(len(part), generator=generator)[: len(place)], out=place)
    return merged
