"""Where the layers of the diffusion model stand in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import CheckpointError
from ..formats.stored_layer import LAYER_DIMENSIONS, is_quantized
from .dtypes import is_float
from .source import TensorInfo, TensorSource

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.model.", "model.", "net.", "")
"""Where the diffusion model may begin, most specific first."""

WEIGHT = ".weight"


@dataclass(frozen=True)
class SourceLayers:
    """The layers of a source's diffusion model, by its header.

    Attributes:
        prefix: where the diffusion model begins.
        weights: of Linear layers and convolutions, by layer: float or quantized.
    """

    source: TensorSource
    prefix: str
    weights: dict[str, TensorInfo]

    def key(self, layer: str) -> str:
        """The weight's name in the source."""
        return f"{self.prefix}{layer}{WEIGHT}"


def find_layers(source: TensorSource, layers: Iterable[str] | None = None) -> SourceLayers:
    """Args, errors: as for ``find_prefix``."""
    prefix = find_prefix(source, layers)
    return SourceLayers(source, prefix, layer_weights(source, prefix))


def layer_weights(source: TensorSource, prefix: str) -> dict[str, TensorInfo]:
    """The weights of Linear layers and convolutions under the prefix, by layer, float or quantized."""
    return {
        key[len(prefix) : -len(WEIGHT)]: info
        for key, info in source.tensors.items()
        if key.startswith(prefix)
        and key.endswith(WEIGHT)
        and len(info.shape) in LAYER_DIMENSIONS
        and (is_float(info.dtype) or is_quantized(source.tensors, key.removesuffix(WEIGHT), info.dtype))
    }


def find_prefix(source: TensorSource, layers: Iterable[str] | None = None) -> str:
    """Where the diffusion model stands in the file: the known prefix under which its layers are found.

    Args:
        layers: the layers it must have, where they are known.

    Errors: CheckpointError when there is none.
    """
    if layers is None:
        ends = {key for key in source.tensors if key.endswith(WEIGHT)}
        found = {p: sum(key.startswith(p) for key in ends) for p in PREFIXES}
        best = next((p for p in PREFIXES if found[p]), "")
    else:
        wanted = list(layers)
        found = {p: sum(f"{p}{name}{WEIGHT}" in source.tensors for name in wanted) for p in PREFIXES}
        best = max(PREFIXES, key=lambda p: found[p])
    if not found[best]:
        raise CheckpointError(
            "no layer of the diffusion model was found in this file"
            + ("" if layers is None else " by the names that it had when it was calibrated"),
            where=source.path,
            remedy="Choose the checkpoint that was calibrated. Files whose tensors ComfyUI renames, such as those of "
            "diffusers, are quantized in ComfyUI, by HSWQ Quantize",
        )
    return best
