"""From one format to another, without the original: codes stay the same codes wherever the target can hold them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import CheckpointError
from .files.checkpoint import CheckpointReader
from .files.dtypes import TORCH_DTYPES, dtype_name, tensor_bytes
from .files.formats import COMFY, COMFY_INT8, COMFY_INT8_ROTATED, INT8_FORMAT, V2, Format
from .files.layers import (
    FP8_DTYPES,
    MARKERS,
    QUANTIZED_DTYPES,
    WEIGHT,
    check_scales,
    checked_scale,
    find_prefix,
    group_of,
    kind_of_codes,
    scale_key,
)
from .files.modelspec import true_metadata
from .files.refusal import is_refusal
from .files.text_encoders import loses_its_scale
from .files.writer import CheckpointWriter, FileLayout, check_not_source
from .options import check_choice
from .progress import Progress, no_progress
from .rounding.rotation import rotated

TARGETS: dict[str, Format | None] = {
    "v2": V2, "comfy": COMFY, "int8": INT8_FORMAT, "comfy-int8": COMFY_INT8, "fp16": None,
}  # fmt: skip


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
        return f"{self.file}: {self.bytes / 1e6:,.1f} MB, {len(self.quantized)} layers quantized{expanded}"


def convert_checkpoint(
    source: CheckpointReader,
    target: Path,
    to: str,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Conversion:
    """Write the source's quantized layers in another format.

    Layers that the target cannot hold (convolutions in comfy, everything in fp16, a scale for each
    channel in comfy, rotated ones in all but comfy-int8) become FP16. All else passes through untouched.

    Errors: PlanError for an unknown target, CheckpointError for a source without layers that the target can hold
    or with a bad scale, TargetError as for quantizing.
    """
    form = TARGETS[check_choice("format to convert to", to, tuple(TARGETS))]
    check_not_source(target, source.path)
    # Text encoders that were quantized by us are converted, too; others are not ours to change.
    prefix = find_prefix(source) if source.metadata.get("hswq.part", "unet") == "unet" else ""
    check_scales(source, prefix)
    scales = _scales(source, prefix)
    if not scales:
        raise CheckpointError("no layer of this file is quantized", where=source.path, remedy="Use 'quantize' for it")
    _check_kind(source, form, scales)

    layout = {key: (info.dtype, info.shape) for key, info in source.tensors.items()}
    for key in _side_keys(source, prefix, scales):
        layout.pop(key, None)
    side: dict[str, torch.Tensor] = {}
    expanded: dict[str, tuple[torch.Tensor, int]] = {}  # by key: the scale, and how many columns are rotated together
    for layer, scale in scales.items():
        key = layer + WEIGHT
        info = source.tensors[key]
        dropped = form is COMFY and loses_its_scale(layer)
        group = _group(source, layer)
        if group > 1 and form is COMFY_INT8:
            side |= COMFY_INT8_ROTATED.beside(layer, scale.flatten(), group)
        elif group > 1 or form is None or dropped or not form.holds(info.shape, info.dtype, scale):
            layout[key] = (_float_type(source, key, scale), info.shape)
            expanded[key] = scale, group
        else:
            side |= form.beside(layer, scale.flatten())
    if form is not None and len(expanded) == len(scales):
        raise _nothing_left(source, form, list(scales))
    keys = sorted(layout, key=lambda key: source.tensors[key].begin)
    layout |= {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in side.items()}
    linear = [layer for layer in scales if layer + WEIGHT not in expanded and len(layout[layer + WEIGHT][1]) == 2]
    output = FileLayout(layout, _metadata(source, prefix, to) | (form.header(linear) if form else {}))
    with CheckpointWriter(target, output, overwrite=overwrite) as writer:
        for number, key in enumerate(keys):
            progress(number, len(keys))
            if key in expanded:
                scale, group = expanded[key]
                weight = rotated(source.tensor(key).float() * scale, group)
                writer.write(key, [tensor_bytes(weight.to(TORCH_DTYPES[layout[key][0]]))])
            else:
                writer.write(key, source.chunks(key))
        for name, tensor in side.items():
            writer.write(name, [tensor_bytes(tensor)])
        source.check_unchanged()
    progress(len(keys), len(keys))
    names = tuple(key.removesuffix(WEIGHT) for key in expanded)
    return Conversion(target, output.nbytes, tuple(layer for layer in scales if layer not in names), names)


def _group(source: CheckpointReader, layer: str) -> int:
    """How many columns are rotated together; 1 is none. Errors: CheckpointError for what cannot be."""
    key = layer + MARKERS[0]
    if key not in source.tensors:
        return 1
    try:
        return group_of(source.tensor(key), source.tensors[layer + WEIGHT].shape)
    except ValueError as error:
        raise CheckpointError(
            f"what {key} says cannot be ({error})",
            where=source.path,
            remedy="The file is damaged; quantize the model again",
        ) from error


def _float_type(source: CheckpointReader, key: str, scale: torch.Tensor) -> str:
    """FP16 for a dequantized weight, or FP32 where FP16 would have infinities."""
    limit = torch.finfo(torch.float16).max
    info = torch.finfo if source.tensors[key].dtype in FP8_DTYPES else torch.iinfo
    if float(scale.max()) * info(TORCH_DTYPES[source.tensors[key].dtype]).max <= limit:
        return "F16"
    return "F16" if float((source.tensor(key).float() * scale).abs().max()) <= limit else "F32"


def _check_kind(source: CheckpointReader, form: Format | None, layers: Iterable[str]) -> None:
    """Errors: CheckpointError when no layer has codes that the target can hold, and all would be rounded twice."""
    kinds = {kind_of_codes(source.tensors[layer + WEIGHT].dtype) for layer in layers}
    if form is not None and form.grid.name not in kinds:
        raise CheckpointError(
            f"the layers are {kinds.pop()} and {form.name} holds {form.grid.name}: they would be rounded twice",
            where=source.path,
            remedy="Quantize the original",
        )


def _nothing_left(source: CheckpointReader, form: Format, layers: list[str]) -> CheckpointError:
    """For a file none of whose layers would stay quantized: twice as large, it would not be what it says."""
    types = {source.tensors[layer + WEIGHT].dtype for layer in layers}
    why = "they are convolutions, rotated, or have a scale for each channel"
    if form.grid.file_dtype not in types:
        why = f"they are {' and '.join(sorted(types))}, and {form.name} holds {form.grid.file_dtype}"
    return CheckpointError(
        f"none of its {len(layers)} quantized layers can be stored in {form.name}: {why}",
        where=source.path,
        remedy="Convert it to fp16, or quantize the original",
    )


def _metadata(source: CheckpointReader, prefix: str, to: str) -> dict[str, str]:
    metadata = {k: v for k, v in true_metadata(source, prefix, to).items() if k != "_quantization_metadata"}
    return metadata | {"hswq.converted_from": source.metadata.get("hswq.mode", "fp8"), "hswq.mode": to}


def _side_keys(source: CheckpointReader, prefix: str, layers: Iterable[str]) -> set[str]:
    """What stands beside the quantized layers in the source's format."""
    found = {f"{prefix}scaled_fp8", *(key for key, info in source.tensors.items() if is_refusal(key, info.shape))}
    for layer in layers:
        scale = scale_key(source.tensors, layer)
        found |= {scale[0]} if scale else set()
        found |= {layer + marker for marker in MARKERS}
    return found


def _scales(source: CheckpointReader, prefix: str) -> dict[str, torch.Tensor]:
    """The scale of every quantized layer by its name in the file: float32, [] or [C_out, 1, ...]."""
    scales: dict[str, torch.Tensor] = {}
    for key, info in source.tensors.items():
        if not (key.startswith(prefix) and key.endswith(WEIGHT) and info.dtype in QUANTIZED_DTYPES):
            continue
        layer = key.removesuffix(WEIGHT)
        found = scale_key(source.tensors, layer)
        one = torch.ones(())
        scales[layer] = checked_scale(found[0], source.tensor(found[0]), info.shape, source.path) if found else one
    return scales
