"""Layers that are stored alike, together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .contents import PARTS, Contents, Part
from .kinds import Kind
from .layer import QuantizedLayer


@dataclass(frozen=True)
class Group:
    """Quantized layers of one part that are of one kind, with scales of the same sort.

    Attributes:
        nbytes: of codes and what stands beside them.
        weights: how many they stand for.
    """

    part: Part
    kind: Kind
    convolutions: bool
    group: str
    exact: bool
    rotated: bool
    layers: tuple[QuantizedLayer, ...]

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    @property
    def weights(self) -> int:
        return sum(layer.numel for layer in self.layers)

    @property
    def bits(self) -> float:
        """Of a weight, with scales."""
        return 8 * self.nbytes / max(1, self.weights)

    @property
    def scales(self) -> str:
        """What has a scale of its own, in words."""
        words = {"tensor": "a scale a layer", "channel": "a scale an output channel", "none": "no scales"}
        return words.get(self.group) or f"groups of {self.group}"

    def __str__(self) -> str:
        return f"{self.kind.label}, {'convolutions' if self.convolutions else 'Linear layers'}"


@dataclass(frozen=True)
class Kept:
    """Layers of one part that are not quantized. Attributes: dtypes: layers by the type of their weight."""

    part: Part
    dtypes: dict[str, int]
    nbytes: int

    @property
    def layers(self) -> int:
        return sum(self.dtypes.values())


_Alike = tuple[Part, Kind, bool, str, bool, bool]
"""What the layers of a group have in common, as ``Group`` has it."""


def _alike(part: Part, layer: QuantizedLayer) -> _Alike:
    if layer.kind.family == "gguf":  # whose readers make no difference
        return part, layer.kind, False, layer.group, False, False
    return part, layer.kind, layer.is_convolution, layer.group, layer.exact, layer.rotation > 1


def groups_of(contents: Contents) -> list[Group]:
    """The groups, those of the diffusion model first, then the largest."""
    found: dict[_Alike, list[QuantizedLayer]] = {}
    for name, layer in contents.layers.items():
        if (part := contents.part_of(name)) is not None:
            found.setdefault(_alike(part, layer), []).append(layer)
    groups = [Group(*common, tuple(layers)) for common, layers in found.items()]
    return sorted(groups, key=lambda group: (PARTS.index(group.part), -group.nbytes))


def kept_of(contents: Contents) -> list[Kept]:
    """What is not quantized, by part."""
    found = []
    for part in PARTS:
        infos = contents.kept_in(part).values()
        if infos:
            dtypes = dict(Counter(info.dtype for info in infos).most_common())
            found.append(Kept(part, dtypes, sum(info.nbytes for info in infos)))
    return found
