"""What a checkpoint holds: its format, its bytes by type, which layers are quantized and which are not."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from ..formats import FORMATS
from ..formats.stored_layer import StoredLayer, is_quantized, stored_layer
from ..words import listed
from .checkpoint import CheckpointReader
from .decode import kind_of_codes
from .header import MAX_HEADER
from .layers import find_layers

_OLDER = "scaled_fp8"
"""The format of text encoders and Flux conversions before ComfyUI had one of its own."""
_MODE = re.compile(rb'"hswq\.mode":\s*"([a-z0-9-]+)"')


@dataclass(frozen=True)
class Inspection:
    """``quantized`` and ``unquantized`` name Linear and Conv2d layers by their path in the diffusion model.

    ``diffusion_model_bytes`` are those of its tensors, ``unquantized_dtype`` the type of most weights that are not
    quantized, ``grid`` what the others are: FP8, INT8, several.
    """

    file: str
    format: str
    grid: str
    bytes: int
    bytes_by_dtype: dict[str, int]
    diffusion_model_prefix: str
    diffusion_model_bytes: int
    unquantized_dtype: str
    quantized: list[str]
    unquantized: list[str]
    metadata: dict[str, str]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    @property
    def predicted_error(self) -> float | None:
        """Of the model's output, as the file says of itself."""
        said = self.metadata.get("hswq.predicted_error", "")
        try:
            return float(said) if said else None
        except ValueError:
            return None

    @property
    def summary(self) -> str:
        """Format, layers and memory in one line."""
        return (
            f"{self.format}, {len(self.quantized)} layers in {self.grid}, "
            f"{len(self.unquantized)} in {self.unquantized_dtype}, "
            f"{self.diffusion_model_bytes / 1e6:,.1f} MB of weights"
        )

    def __str__(self) -> str:
        types = ", ".join(f"{dtype} {size / 1e6:,.1f} MB" for dtype, size in self.bytes_by_dtype.items())
        lines = [
            f"{self.file}",
            f"  format     {self.format}",
            f"  size       {self.bytes / 1e6:,.1f} MB ({types})",
            f"  layers     {len(self.quantized)} in {self.grid}, {len(self.unquantized)} not",
        ]
        lines += [f"  {key:<10} {value[:100]}" for key, value in sorted(self.metadata.items())]
        return "\n".join(lines)


def inspect_checkpoint(reader: CheckpointReader) -> Inspection:
    """Look at the header alone. Errors: CheckpointError when there is no diffusion model in the file."""
    found = find_layers(reader)
    quantized, unquantized, formats, sizes = [], [], set[str](), Counter[str]()
    grids: set[str] = set()
    for layer, info in sorted(found.weights.items()):
        if is_quantized(reader.tensors, found.prefix + layer, info.dtype):
            quantized.append(layer)
            grids.add(kind_of_codes(reader, found.prefix + layer))
            formats.add(_format_of_layer(stored_layer(reader.tensors, found.prefix + layer, info.dtype, info.shape)))
        else:
            unquantized.append(layer)
            sizes[info.dtype] += info.nbytes
    by_dtype: Counter[str] = Counter()
    for info in reader.tensors.values():
        by_dtype[info.dtype] += info.nbytes
    return Inspection(
        file=str(reader.path),
        format=_format_name(quantized, formats, reader.metadata.get("hswq.mode", "")),
        grid=listed(sorted(grids)) or "FP8",
        bytes=reader.path.stat().st_size,
        bytes_by_dtype=dict(by_dtype.most_common()),
        diffusion_model_prefix=found.prefix,
        diffusion_model_bytes=sum(info.nbytes for key, info in reader.tensors.items() if key.startswith(found.prefix)),
        unquantized_dtype=sizes.most_common(1)[0][0] if sizes else "F16",
        quantized=quantized,
        unquantized=unquantized,
        metadata=reader.metadata,
    )


def mode_of(path: Path) -> str:
    """The format that one of our files says it has, by its header; empty for any other file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = _MODE.search(file.read(length)) if length <= MAX_HEADER else None
    except OSError:
        return ""
    return found[1].decode("ascii") if found else ""


def _format_of_layer(layer: StoredLayer) -> str:
    # The last one first: a format that was added knows its own layers better than those before it.
    return next((name for name, form in reversed(FORMATS.items()) if form.recognizes(layer)), _OLDER)


def _format_name(quantized: list[str], names: set[str], said: str) -> str:
    """What the layers are in, all together.

    Args:
        names: the formats of single layers.
        said: the format that the file says it has.
    """
    if not quantized:
        return "not quantized"
    # A file whose layers are scaled in part is what its scales say: layers without one have the scale 1.
    found = names - {"v1"} or names
    mixing = next((form for form in FORMATS.values() if form.menu and form.name in (*found, said)), None)
    if mixing and found <= {mixing.name, *mixing.made_of}:
        return mixing.name
    return found.pop() if len(found) == 1 else "several"
