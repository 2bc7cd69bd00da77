"""From one format to another, without the original: what is FP8 stays the same FP8 wherever the target can hold it."""

from __future__ import annotations

from pathlib import Path

import torch

from .errors import CheckpointError, PlanError, TargetError
from .files.checkpoint import CheckpointReader
from .files.dtypes import dtype_name, tensor_bytes
from .files.formats import COMFY, V2, Format
from .files.layers import FP8_DTYPES, MARKERS, WEIGHT, check_scales, checked_scale, find_prefix, scale_key
from .files.writer import CheckpointWriter, FileLayout
from .fp8.grid import dequantize
from .quantize import Progress

TARGETS: dict[str, Format | None] = {"v2": V2, "comfy": COMFY, "fp16": None}


def convert_checkpoint(
    source: CheckpointReader,
    target: Path,
    to: str,
    *,
    overwrite: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> int:
    """Write the source's FP8 layers in another format, and give the number of layers that are FP8 in it.

    Layers that the target cannot hold in FP8 (convolutions in comfy, everything in fp16, a scale for each
    channel in comfy) become FP16. All else passes through untouched.

    Errors: PlanError for an unknown target, CheckpointError for a source without FP8 layers or with a bad scale,
    TargetError as for quantizing.
    """
    if to not in TARGETS:
        raise PlanError(f"there is no format {to!r} to convert to", do=f"Choose one of: {', '.join(TARGETS)}")
    if target.exists() and target.samefile(source.path):
        raise TargetError("the target is the source", where=target, do="Choose another name")
    form, prefix = TARGETS[to], find_prefix(source)
    check_scales(source, prefix)
    scales = _scales(source, prefix)
    if not scales:
        raise CheckpointError("no layer of this file is in FP8", where=source.path, do="Use 'quantize' for it")

    dropped = {f"{prefix}scaled_fp8"}
    for layer in scales:
        found = scale_key(source.tensors, layer)
        dropped |= {found[0]} if found else set()
        dropped |= {layer + marker for marker in MARKERS}
    side: dict[str, torch.Tensor] = {}
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    expanded = set()
    for key, info in source.tensors.items():
        if key in dropped:
            continue
        layout[key] = (info.dtype, info.shape)
        layer = key.removesuffix(WEIGHT)
        if layer == key or layer not in scales:
            continue
        if form is None or not form.holds(info.shape, info.dtype, scales[layer]):
            layout[key] = ("F16", info.shape)
            expanded.add(key)
        else:
            side |= form.side_tensors(layer, scales[layer].flatten())
    layout |= {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in side.items()}

    metadata = {k: v for k, v in source.metadata.items() if k != "_quantization_metadata"}
    metadata |= {"hswq.converted_from": source.metadata.get("hswq.mode", "fp8"), "hswq.mode": to}
    keys = sorted((k for k in source.tensors if k not in dropped), key=lambda key: source.tensors[key].begin)
    with CheckpointWriter(target, FileLayout(layout, metadata), overwrite=overwrite) as writer:
        for number, key in enumerate(keys):
            progress(number, len(keys))
            if key in expanded:
                scale = scales[key.removesuffix(WEIGHT)]
                writer.write(key, [tensor_bytes(dequantize(source.tensor(key), scale).half())])
            else:
                writer.write(key, source.chunks(key))
        for name, tensor in side.items():
            writer.write(name, [tensor_bytes(tensor)])
    progress(len(keys), len(keys))
    return len(scales) - len(expanded)


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
