"""From one format to another, without the original: what is FP8 stays the same FP8 wherever the target can hold it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import CheckpointError
from .files.checkpoint import CheckpointReader
from .files.dtypes import dtype_name, tensor_bytes
from .files.formats import COMFY, V2, Format
from .files.layers import FP8_DTYPES, MARKERS, WEIGHT, check_scales, checked_scale, find_prefix, scale_key
from .files.writer import CheckpointWriter, FileLayout, check_not_source
from .options import check_choice
from .progress import Progress, no_progress

TARGETS: dict[str, Format | None] = {"v2": V2, "comfy": COMFY, "fp16": None}


@dataclass(frozen=True)
class Conversion:
    """The file that was written.

    Attributes:
        bytes: its size.
        quantized: the layers that are quantized in it, by their name in the file.
        expanded: the layers that became FP16.
    """

    file: Path
    bytes: int
    quantized: tuple[str, ...]
    expanded: tuple[str, ...]

    def __str__(self) -> str:
        expanded = f", {len(self.expanded)} expanded to FP16" if self.expanded else ""
        return f"{self.file}: {self.bytes / 1e6:,.1f} MB, {len(self.quantized)} layers in FP8{expanded}"


def convert_checkpoint(
    source: CheckpointReader,
    target: Path,
    to: str,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Conversion:
    """Write the source's FP8 layers in another format.

    Layers that the target cannot hold in FP8 (convolutions in comfy, everything in fp16, a scale for each
    channel in comfy) become FP16. All else passes through untouched.

    Errors: PlanError for an unknown target, CheckpointError for a source without FP8 layers or with a bad scale,
    TargetError as for quantizing.
    """
    form = TARGETS[check_choice("format to convert to", to, tuple(TARGETS))]
    check_not_source(target, source.path)
    prefix = find_prefix(source)
    check_scales(source, prefix)
    scales = _scales(source, prefix)
    if not scales:
        raise CheckpointError("no layer of this file is in FP8", where=source.path, remedy="Use 'quantize' for it")

    layout = {key: (info.dtype, info.shape) for key, info in source.tensors.items()}
    for key in _side_keys(source, prefix, scales):
        layout.pop(key, None)
    side: dict[str, torch.Tensor] = {}
    expanded: dict[str, torch.Tensor] = {}  # scales by key
    for layer, scale in scales.items():
        key = layer + WEIGHT
        info = source.tensors[key]
        if form is None or not form.holds(info.shape, info.dtype, scale):
            layout[key] = ("F16", info.shape)
            expanded[key] = scale
        else:
            side |= form.side_tensors(layer, scale.flatten())
    keys = sorted(layout, key=lambda key: source.tensors[key].begin)
    layout |= {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in side.items()}
    output = FileLayout(layout, _metadata(source, to))
    with CheckpointWriter(target, output, overwrite=overwrite) as writer:
        for number, key in enumerate(keys):
            progress(number, len(keys))
            if key in expanded:
                writer.write(key, [tensor_bytes((source.tensor(key).float() * expanded[key]).half())])
            else:
                writer.write(key, source.chunks(key))
        for name, tensor in side.items():
            writer.write(name, [tensor_bytes(tensor)])
        source.check_unchanged()
    progress(len(keys), len(keys))
    names = tuple(key.removesuffix(WEIGHT) for key in expanded)
    return Conversion(target, output.nbytes, tuple(layer for layer in scales if layer not in names), names)


def _metadata(source: CheckpointReader, to: str) -> dict[str, str]:
    metadata = {k: v for k, v in source.metadata.items() if k != "_quantization_metadata"}
    return metadata | {"hswq.converted_from": source.metadata.get("hswq.mode", "fp8"), "hswq.mode": to}


def _side_keys(source: CheckpointReader, prefix: str, layers: Iterable[str]) -> set[str]:
    """What stands beside the quantized layers in the source's format."""
    found = {f"{prefix}scaled_fp8"}
    for layer in layers:
        scale = scale_key(source.tensors, layer)
        found |= {scale[0]} if scale else set()
        found |= {layer + marker for marker in MARKERS}
    return found


def _scales(source: CheckpointReader, prefix: str) -> dict[str, torch.Tensor]:
    """The scale of every FP8 layer by its name in the file: float32, [] or [C_out, 1, ...]."""
    scales: dict[str, torch.Tensor] = {}
    for key, info in source.tensors.items():
        if not (key.startswith(prefix) and key.endswith(WEIGHT) and info.dtype in FP8_DTYPES):
            continue
        layer = key.removesuffix(WEIGHT)
        found = scale_key(source.tensors, layer)
        one = torch.ones(())
        scales[layer] = checked_scale(found[0], source.tensor(found[0]), info.shape, source.path) if found else one
    return scales
