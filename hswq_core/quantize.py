"""A plan carried out: the source streams through, chosen layers turn to FP8, one file comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .calibration.coverage import coverage_warnings
from .calibration.statistics import Statistics
from .errors import CheckpointError, TargetError
from .files.checkpoint import CheckpointReader
from .files.dtypes import tensor_bytes
from .files.writer import CheckpointWriter, FileLayout
from .fp8.weight import QuantizedWeight, quantize_weight
from .parallel import ordered_map
from .planning.plan import QuantizationPlan

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all; whatever it raises stops the job, and no file is left."""


@dataclass(frozen=True)
class Report:
    """What was done, for people and for JSON. Sizes in bytes; ``unet`` is all tensors of the diffusion model.

    ``weighted_error`` is the importance-weighted squared error of all quantized weights, beside that of a
    plain cast of the same layers. ``calibrated_gain`` is the squared output error of the layers whose rounding was
    calibrated over that of nearest rounding, on average.
    """

    file: str
    bytes: int
    source_bytes: int
    unet_bytes: int
    source_unet_bytes: int
    mode: str
    keep_ratio: float | None
    budget: str
    selection: str
    rounding: str
    scales: str
    kept_layers: int
    quantized_layers: int
    weighted_error: float
    weighted_error_plain_cast: float
    calibrated_layers: int
    calibrated_gain: float | None
    kept: dict[str, str]
    warnings: list[str]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        gain = self.weighted_error / self.weighted_error_plain_cast if self.weighted_error_plain_cast else 1.0
        reasons = sorted(set(self.kept.values()))
        kept = ", ".join(f"{list(self.kept.values()).count(why)} {why}" for why in reasons)
        error = f"weighted error {gain:.2f} of a plain cast's"
        if self.calibrated_gain is not None:
            error = f"output error of {self.calibrated_layers} calibrated layers {self.calibrated_gain:.2f} of nearest"
        return (
            f"{self.file}: {self.bytes / 1e6:,.1f} MB of {self.source_bytes / 1e6:,.1f} MB "
            f"({self.bytes / self.source_bytes:.1%}); diffusion model {self.unet_bytes / self.source_unet_bytes:.1%}; "
            f"{self.quantized_layers} layers in FP8, {self.kept_layers} kept{f' ({kept})' if kept else ''}; "
            f"{error}" + "".join(f"\nwarning: {warning}" for warning in self.warnings)
        )


def quantize_checkpoint(
    source: CheckpointReader,
    plan: QuantizationPlan,
    statistics: Statistics | None,
    target: Path,
    *,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = lambda _done, _total: None,
) -> Report:
    """Write the planned file, a few layers at a time in memory.

    Args:
        device: where weights are rounded.

    Errors: TargetError when the target exists or cannot be written, CheckpointError for weights that are
    not finite or a source that ends while it is read. Nothing is left at the target then.
    """
    if target.exists() and target.samefile(source.path):
        raise TargetError("the target is the source", where=target, do="Choose another name")
    quantized = {layer.key: layer for layer in plan.quantized}
    # In the order of the file, which is the order in which a disk reads fastest.
    keys = sorted(source.tensors, key=lambda key: source.tensors[key].begin)

    def convert(key: str) -> QuantizedWeight | None:
        if key not in quantized:
            return None
        layer = quantized[key].layer
        measured = statistics.layers.get(layer) if statistics else None
        weight = source.tensor(key).to(device)
        try:
            return quantize_weight(
                weight,
                measured,
                scaled=plan.format.scaled,
                per_channel=plan.format.channel_scales,
                rounding=plan.rounding,
            )
        except ValueError as problem:
            raise CheckpointError(f"layer {layer}: {problem}", where=source.path, do="Repair the checkpoint") from None

    total = sum(info.nbytes for info in source.tensors.values())
    done, error, plain_error = 0, 0.0, 0.0
    gains: list[float] = []
    layout = FileLayout(plan.layout, plan.metadata())
    with CheckpointWriter(target, layout, overwrite=overwrite) as writer:
        for key, result in zip(keys, ordered_map(convert, keys), strict=True):
            progress(done, total)
            if result is None:
                writer.write(key, source.chunks(key))
            else:
                writer.write(key, [tensor_bytes(result.codes)])
                for name, tensor in plan.format.side_tensors(quantized[key].stem, result.scale).items():
                    writer.write(name, [tensor_bytes(tensor)])
                error += result.error
                plain_error += result.plain_error
                gains += [] if result.gain is None else [result.gain]
            done += source.tensors[key].nbytes
    progress(total, total)
    return Report(
        file=str(target),
        bytes=layout.nbytes,
        source_bytes=plan.source_bytes,
        unet_bytes=plan.unet_bytes,
        source_unet_bytes=plan.source_unet_bytes,
        mode=plan.format.name,
        keep_ratio=plan.keep_ratio,
        budget=plan.budget,
        selection=plan.selection,
        rounding=plan.rounding,
        scales=plan.scales,
        kept_layers=len(plan.kept),
        quantized_layers=len(plan.quantized),
        weighted_error=error,
        weighted_error_plain_cast=plain_error,
        calibrated_layers=len(gains),
        calibrated_gain=sum(gains) / len(gains) if gains else None,
        kept={layer.layer: layer.reason for layer in plan.kept},
        warnings=coverage_warnings(statistics) if statistics else [],
    )
