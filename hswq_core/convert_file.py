"""From one format to another, without the original: codes stay the same codes wherever the target can hold them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import CheckpointError
from .files.checkpoint import CheckpointReader
from .files.decode import LayerDecoder, decode_layer, kind_of_codes
from .files.dtypes import TORCH_DTYPES, dtype_name, tensor_bytes
from .files.layers import WEIGHT, find_prefix
from .files.modelspec import true_metadata
from .files.scale_check import check_scales
from .files.source import TensorInfo
from .files.writer import CheckpointWriter, FileLayout, check_not_source
from .formats import FORMATS, Format
from .formats.refusal import is_refusal
from .formats.stored_layer import FP8_DTYPES, is_quantized
from .options import check_choice
from .progress import Progress, no_progress
from .words import listed

PLAIN = "fp16"


def targets() -> tuple[str, ...]:
    """What a quantized file can be converted to."""
    return (*(name for name, form in FORMATS.items() if form.is_target), PLAIN)


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
    channel in comfy, rotated ones in all but int8 and comfy-int8) become FP16. All else passes through untouched.

    Errors: PlanError for an unknown target, CheckpointError for a source without layers that the target can hold
    or with a bad scale, TargetError as for quantizing.
    """
    form = FORMATS.get(check_choice("format to convert to", to, targets()))
    check_not_source(target, source.path)
    # Text encoders that were quantized by us are converted, too; others are not ours to change.
    prefix = find_prefix(source) if source.metadata.get("hswq.part", "unet") == "unet" else ""
    check_scales(source, prefix)
    layers = _quantized(source, prefix)
    if not layers:
        raise CheckpointError("no layer of this file is quantized", where=source.path, remedy="Use 'quantize' for it")
    _check_kind(source, form, layers)

    layout = {key: (info.dtype, info.shape) for key, info in source.tensors.items()}
    for key in (f"{prefix}scaled_fp8", *(key for key, info in source.tensors.items() if is_refusal(key, info.shape))):
        layout.pop(key, None)
    side: dict[str, torch.Tensor] = {}
    plain: dict[str, LayerDecoder] = {}
    for layer in layers:
        info = source.tensors[layer + WEIGHT]
        decoder = decode_layer(source.tensors, source.tensor, layer, info.shape, source.path)
        for key in decoder.side_keys:
            layout.pop(key, None)
        stored = None if form is None else _side_tensors(form, layer, info, decoder)
        if stored is None:
            plain[layer + WEIGHT] = decoder
            layout[layer + WEIGHT] = (_float_type(source, layer + WEIGHT, decoder), decoder.shape)
        else:
            side |= stored
    if form is not None and len(plain) == len(layers):
        raise _nothing_left(source, form, layers)
    keys = sorted(layout, key=lambda key: source.tensors[key].begin)
    layout |= {name: (dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in side.items()}
    kept = tuple(layer for layer in layers if layer + WEIGHT not in plain)
    linear = [layer for layer in kept if len(layout[layer + WEIGHT][1]) == 2]
    output = FileLayout(layout, _metadata(source, prefix, to) | (form.header(linear) if form else {}))
    with CheckpointWriter(target, output, overwrite=overwrite) as writer:
        for number, key in enumerate(keys):
            progress(number, len(keys))
            if key in plain:
                weight = plain[key].dequantize(source.tensor(key))
                writer.write(key, [tensor_bytes(weight.to(TORCH_DTYPES[layout[key][0]]))])
            else:
                writer.write(key, source.chunks(key))
        for name, tensor in side.items():
            writer.write(name, [tensor_bytes(tensor)])
        source.check_unchanged()
    progress(len(keys), len(keys))
    return Conversion(target, output.nbytes, kept, tuple(key.removesuffix(WEIGHT) for key in plain))


def _quantized(source: CheckpointReader, prefix: str) -> list[str]:
    """The quantized layers by their names in the file."""
    return [
        layer
        for key, info in source.tensors.items()
        if key.startswith(prefix)
        and key.endswith(WEIGHT)
        and is_quantized(source.tensors, layer := key.removesuffix(WEIGHT), info.dtype)
    ]


def _side_tensors(form: Format, layer: str, info: TensorInfo, decoder: LayerDecoder) -> dict[str, torch.Tensor] | None:
    """What stands beside a layer's codes in another format; ``None`` where the format cannot hold them."""
    scale = decoder.scale.flatten()
    if form.drops_scale(layer) or not form.can_store(info.shape, info.dtype, scale):
        return None
    if decoder.group == 1:
        return form.form.side_tensors_for(layer, scale, info.shape)
    return form.rotated_form and form.rotated_form.side_tensors_for(layer, scale, info.shape, decoder.group)


def _float_type(source: CheckpointReader, key: str, decoder: LayerDecoder) -> str:
    """FP16 for a dequantized weight, or FP32 where FP16 would have infinities."""
    limit = torch.finfo(torch.float16).max
    info = torch.finfo if source.tensors[key].dtype in FP8_DTYPES else torch.iinfo
    if decoder.largest_scale * info(TORCH_DTYPES[source.tensors[key].dtype]).max <= limit:
        return "F16"
    return "F16" if float(decoder.scaled(source.tensor(key)).abs().max()) <= limit else "F32"


def _check_kind(source: CheckpointReader, form: Format | None, layers: Iterable[str]) -> None:
    """Errors: CheckpointError when no layer has codes that the target can hold, and all would be rounded twice."""
    kinds = {kind_of_codes(source, layer) for layer in layers}
    if form is not None and form.form.grid.name not in kinds:
        found, held = listed(sorted(kinds)), form.form.grid.name
        raise CheckpointError(
            f"the layers are {found} and {form.name} holds {held}: they would be rounded twice",
            where=source.path,
            remedy="Quantize the original",
        )


def _nothing_left(source: CheckpointReader, form: Format, layers: list[str]) -> CheckpointError:
    """For a file none of whose layers would stay quantized: twice as large, it would not be what it says."""
    types = {source.tensors[layer + WEIGHT].dtype for layer in layers}
    why = "they are convolutions, rotated, or have a scale for each channel"
    if form.form.grid.file_dtype not in types:
        why = f"they are {listed(sorted(types))}, and {form.name} holds {form.form.grid.file_dtype}"
    return CheckpointError(
        f"none of its {len(layers)} quantized layers can be stored in {form.name}: {why}",
        where=source.path,
        remedy="Convert it to fp16, or quantize the original",
    )


def _metadata(source: CheckpointReader, prefix: str, to: str) -> dict[str, str]:
    metadata = {k: v for k, v in true_metadata(source, prefix, to).items() if k != "_quantization_metadata"}
    return metadata | {"hswq.converted_from": source.metadata.get("hswq.mode", "fp8"), "hswq.mode": to}
