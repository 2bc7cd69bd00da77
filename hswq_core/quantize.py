"""A plan carried out: the source streams through, chosen layers turn to FP8, one file comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .calibration.statistics import Statistics
from .errors import CheckpointError
from .files.checkpoint import CheckpointReader, CheckpointWriter, dtype_name, tensor_bytes
from .fp8.grid import dequantize, quantize
from .fp8.histogram import histogram
from .fp8.scale import scale_of, search_amax
from .planning.plan import LayerPlan, QuantizationPlan

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all; whatever it raises stops the job, and no file is left."""


@dataclass(frozen=True)
class Report:
    """What was done, for people and for JSON. Sizes in bytes; ``unet`` is all tensors of the diffusion model."""

    file: str
    bytes: int
    source_bytes: int
    unet_bytes: int
    source_unet_bytes: int
    mode: str
    keep_ratio: float
    selection: str
    rounding: str
    kept_layers: int
    quantized_layers: int
    weighted_error: float
    weighted_error_plain_cast: float
    kept: dict[str, str]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        gain = self.weighted_error / self.weighted_error_plain_cast if self.weighted_error_plain_cast else 1.0
        return (
            f"{self.file}: {self.bytes / 1e6:,.1f} MB of {self.source_bytes / 1e6:,.1f} MB "
            f"({self.bytes / self.source_bytes:.1%}); diffusion model {self.unet_bytes / self.source_unet_bytes:.1%}; "
            f"{self.quantized_layers} layers in FP8, {self.kept_layers} kept; "
            f"weighted error {gain:.2f} of a plain cast's"
        )


def quantize_checkpoint(
    source: CheckpointReader,
    plan: QuantizationPlan,
    statistics: Statistics | None,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Report:
    """Write the planned file.

    Errors: TargetError when the target exists or cannot be written, CheckpointError for weights that are
    not finite or a source that ends while it is read. Nothing is left at the target then.
    """
    quantized = {layer.key: layer for layer in plan.quantized}
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for key, info in source.tensors.items():
        layout[key] = ("F8_E4M3" if key in quantized else info.dtype, info.shape)
    for layer in quantized.values():
        for name, tensor in plan.format.side_tensors(layer.stem, torch.ones(1)).items():
            if name in source.tensors:
                raise CheckpointError(f"there is a tensor {name} already", where=source.path, do="Quantize the original")
            layout[name] = (dtype_name(tensor.dtype), tuple(tensor.shape))

    total = sum(info.nbytes for info in source.tensors.values())
    done, error, plain_error = 0, 0.0, 0.0
    writer = CheckpointWriter(target, layout, {**source.metadata, **plan.metadata()}, overwrite=overwrite)
    with writer:
        # In the order of the file, which is the order in which a disk reads fastest.
        for key in sorted(source.tensors, key=lambda key: source.tensors[key].begin):
            progress(done, total)
            if key in quantized:
                layer = quantized[key]
                result = quantize_layer(source.tensor(key), layer, plan, statistics, source.path)
                writer.write(key, [tensor_bytes(result.codes)])
                for name, tensor in plan.format.side_tensors(layer.stem, result.scale).items():
                    writer.write(name, [tensor_bytes(tensor)])
                error += result.error
                plain_error += result.plain_error
            else:
                writer.write(key, source.chunks(key))
            done += source.tensors[key].nbytes
    progress(total, total)
    return _report(source, plan, target, writer.nbytes, error, plain_error)


@dataclass(frozen=True)
class QuantizedLayer:
    """FP8 codes, scale (float32 [1]), and the importance-weighted squared error, here and of a plain cast."""

    codes: torch.Tensor
    scale: torch.Tensor
    error: float
    plain_error: float


def quantize_layer(
    weight: torch.Tensor, layer: LayerPlan, plan: QuantizationPlan, statistics: Statistics | None, path: Path
) -> QuantizedLayer:
    """Search the scale of one weight and round it. Errors: CheckpointError for NaN or infinity."""
    if not weight.isfinite().all():
        raise CheckpointError(f"layer {layer.layer} holds NaN or infinite weights", where=path, do="Repair the checkpoint")
    measured = statistics.layers[layer.layer] if statistics else None
    distribution = histogram(weight, measured.importance if measured else None)
    scale = torch.ones(1)
    if plan.format.scaled:
        scale = scale_of(search_amax(distribution, scaled=True).amax)
    # V1 needs no search: a clip below max|W| cannot lower the error (fp8/scale.py), above it nothing is clipped.
    values, weights = distribution.values, distribution.weights

    def squared_error(by: torch.Tensor) -> float:
        return float((dequantize(quantize(values, by), by) - values).square().double() @ weights)

    return QuantizedLayer(quantize(weight, scale), scale, squared_error(scale), squared_error(torch.ones(1)))


def _report(
    source: CheckpointReader, plan: QuantizationPlan, target: Path, nbytes: int, error: float, plain_error: float
) -> Report:
    source_unet = sum(info.nbytes for key, info in source.tensors.items() if key.startswith(plan.prefix))
    saved = sum(
        layer.info.nbytes
        - layer.elements
        - sum(t.nbytes for t in plan.format.side_tensors(layer.stem, torch.ones(1)).values())
        for layer in plan.quantized
    )
    return Report(
        file=str(target),
        bytes=nbytes,
        source_bytes=source.path.stat().st_size,
        unet_bytes=source_unet - saved,
        source_unet_bytes=source_unet,
        mode=plan.format.name,
        keep_ratio=plan.keep_ratio,
        selection=plan.selection,
        rounding=plan.rounding,
        kept_layers=len(plan.kept),
        quantized_layers=len(plan.quantized),
        weighted_error=error,
        weighted_error_plain_cast=plain_error,
        kept={layer.layer: layer.reason for layer in plan.kept},
    )
