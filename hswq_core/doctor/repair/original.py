"""The unquantized model that a file was made from, and where each tensor of the file stands in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...errors import CheckpointError
from ...files.checkpoint import CheckpointReader
from ...files.dtypes import is_float
from ...files.layers import WEIGHT, find_prefix
from ...files.text_encoders import TEXT_ENCODERS
from ...formats.refusal import is_refusal
from ..contents import VAES, Contents
from ..not_the_original import check_unquantized, no_layer_of


@dataclass(frozen=True)
class Original:
    """Attributes: prefix: where its diffusion model begins."""

    contents: Contents
    source: CheckpointReader
    prefix: str

    @staticmethod
    def of(contents: Contents, source: CheckpointReader) -> Original:
        """Errors: CheckpointError where it has no layer of the file, or is quantized itself."""
        found = Original(contents, source, "" if contents.alone else find_prefix(source))
        if not any(found.key(name + WEIGHT) for name in (*contents.layers, *contents.kept)):
            raise no_layer_of(contents.path, source.path)
        own = contents.names_in("diffusion model")
        if own and not any(found.key(name + WEIGHT) for name in own):
            raise CheckpointError(
                f"no layer of the diffusion model of {contents.path.name} is in it", where=source.path,
                remedy="Give the whole model that it was made from",
            )  # fmt: skip
        inside = (key for name in contents.names_in("diffusion model") if (key := found.key(name + WEIGHT)))
        check_unquantized(source.tensors, inside, source.path)
        return found

    def key(self, key: str) -> str | None:
        """The name in the original of a tensor of the file; ``None`` where it is not there."""
        inside = self.contents.part_of(key) == "diffusion model"
        own = self.prefix + self.contents.path_of(key) if inside else key
        return own if own in self.source.tensors else None

    def weight(self, name: str) -> torch.Tensor | None:
        """The weight of a layer of the file, in its own type; ``None`` where it is not there, or is quantized."""
        key = self.key(name + WEIGHT)
        return self.source.tensor(key) if key and is_float(self.source.tensors[key].dtype) else None

    def missing(self) -> Iterator[str]:
        """Tensors of the diffusion model that the file lacks, by the names that they would have in it."""
        here = self.contents.weights
        if self.contents.alone or any(
            self.key(name + WEIGHT) is None for name in self.contents.names_in("diffusion model")
        ):
            return  # another part of a model, or one with other names
        for key, info in self.source.tensors.items():
            if key.startswith(self.prefix) and not key.startswith((*TEXT_ENCODERS, *VAES)):
                name = self.contents.prefix + key.removeprefix(self.prefix)
                if name not in here and not is_refusal(key, info.shape):
                    yield name
