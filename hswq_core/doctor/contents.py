"""What is in a file: layers that are quantized, by whatever tool, and all other tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import torch

from ..errors import CheckpointError
from ..files.checkpoint import CheckpointReader
from ..files.layers import WEIGHT, find_prefix
from ..files.source import TensorInfo, TensorSource
from ..files.text_encoders import TEXT_ENCODERS
from ..formats.refusal import is_refusal
from ..formats.stored_layer import LAYER_DIMENSIONS
from .layer import QuantizedLayer
from .readers import quantized_layers
from .readers.described import formats_of_header
from .readers.eight_bits import MARK
from .readers.gguf_file import is_gguf, read_gguf

Part = Literal["diffusion model", "text encoders", "VAE"]
PARTS: tuple[Part, ...] = ("diffusion model", "text encoders", "VAE")
VAES = ("first_stage_model.", "vae.")
_EMBEDS_TOKENS = ("embed_tokens.weight", "shared.weight", "token_embedding.weight", "token_embd.weight")
_OF_A_VAE = ("decoder.conv_in.weight", "decoder.conv1.weight")


@dataclass(frozen=True)
class Contents:
    """A file, while it is open.

    Attributes:
        tensors: as they are stored.
        layers: those that are quantized, by name.
        prefix: where the diffusion model begins.
        alone: the part that the file is, where it is a text encoder or a VAE and nothing else.
        source: ``None`` for GGUF.
        read: reads a tensor that is not quantized.
    """

    path: Path
    container: Literal["safetensors", "gguf"]
    nbytes: int
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    layers: Mapping[str, QuantizedLayer]
    prefix: str
    alone: Part | None
    source: CheckpointReader | None
    read: Callable[[str], torch.Tensor]

    def part_of(self, name: str) -> Part | None:
        """Which part of a model a tensor is of; ``None`` for none, as with what training leaves behind."""
        if self.alone:
            return self.alone
        if name.startswith(TEXT_ENCODERS):
            return "text encoders"
        if name.startswith(VAES):
            return "VAE"
        return "diffusion model" if name.startswith(self.prefix) else None

    def path_of(self, name: str) -> str:
        """A layer's path in the diffusion model, by its name in the file."""
        return name.removeprefix(self.prefix)

    def in_part(self, part: Part) -> list[QuantizedLayer]:
        """The quantized layers of a part."""
        return [layer for name, layer in self.layers.items() if self.part_of(name) == part]

    def kept_in(self, part: Part) -> dict[str, TensorInfo]:
        """The weights of a part's layers that are not quantized, by the layer's name in the file."""
        return {name: info for name, info in self.kept.items() if self.part_of(name) == part}

    def names_in(self, part: Part) -> list[str]:
        """The layers of a part, quantized or not, by their names in the file."""
        return [name for name in (*self.layers, *self.kept) if self.part_of(name) == part]

    @cached_property
    def said_by_header(self) -> dict[str, dict[str, object]]:
        """What ComfyUI's header says of layers, by the names that it gives them."""
        return formats_of_header(self.metadata)

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Where parts begin in which ``scaled_fp8`` says that layers have scales."""
        return tuple(key[: -len(MARK)] for key in self.tensors if key == MARK or key.endswith(f".{MARK}"))

    @cached_property
    def taken(self) -> frozenset[str]:
        """The tensors of quantized layers: codes and what stands beside them."""
        return frozenset(key for layer in self.layers.values() for key in (layer.codes, *layer.side))

    @cached_property
    def kept(self) -> dict[str, TensorInfo]:
        """The weights of Linear layers and convolutions that are not quantized, by the layer's name in the file."""
        return {
            key.removesuffix(WEIGHT): info
            for key, info in self.tensors.items()
            if key.endswith(WEIGHT)
            and key not in self.taken
            and len(info.shape) in LAYER_DIMENSIONS
            and not is_refusal(key, info.shape)
        }

    @cached_property
    def weights(self) -> dict[str, TensorInfo]:
        """All tensors, those of quantized layers under the name and in the shape of the weight that they stand for."""
        return _weights(self.tensors, self.layers)


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """The contents of a safetensors or a GGUF file.

    Errors: CheckpointError for what is neither, for what is truncated, and for GGUF without the package for it.
    """
    if is_gguf(path):
        file = read_gguf(path)
        yield Contents(
            path, "gguf", file.nbytes, file.metadata, file.tensors, file.layers,
            _prefix_of(_weights(file.tensors, file.layers), path), _only_part(file.tensors), None, file.read,
        )  # fmt: skip
        return
    with CheckpointReader(path) as reader:
        layers = quantized_layers(reader)
        yield Contents(
            path, "safetensors", reader.nbytes, reader.metadata, reader.tensors, layers,
            _prefix_of(_weights(reader.tensors, layers), path), _only_part(reader.tensors), reader, reader.tensor,
        )  # fmt: skip


def _weights(tensors: Mapping[str, TensorInfo], layers: Mapping[str, QuantizedLayer]) -> dict[str, TensorInfo]:
    found = {key: info for key, info in tensors.items() if not is_refusal(key, info.shape)}
    for name, layer in layers.items():
        info = found.pop(layer.codes)
        found[name + WEIGHT] = TensorInfo(info.dtype, layer.shape, info.begin, info.end)
    return found


def _prefix_of(tensors: Mapping[str, TensorInfo], path: Path) -> str:
    """Where the diffusion model begins; empty where names have no prefix, or none ends as that of a weight."""
    try:
        return find_prefix(cast(TensorSource, SimpleNamespace(tensors=tensors, path=path)))
    except CheckpointError:
        return ""


def _only_part(tensors: Mapping[str, TensorInfo]) -> Part | None:
    if any(key.startswith(("model.diffusion_model.", *TEXT_ENCODERS, *VAES)) for key in tensors):
        return None
    if any(key.endswith(_EMBEDS_TOKENS) for key in tensors):
        return "text encoders"
    return "VAE" if any(key.endswith(_OF_A_VAE) for key in tensors) else None
