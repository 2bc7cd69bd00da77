"""Telling one model's weights from another's, cheaply, whatever float type they are stored in.

A fingerprint is four weight values of every layer, at positions chosen by a hash of the layer's name. The same model
in FP32, BF16 or FP16 differs by rounding alone, so two values are equal when one, rounded to the other's type, is the
other. A merge of one per cent moves nearly every weight by more than that. A hash of the values could not tell, since
rounding can fall on either side of any boundary.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

ELEMENTS = 4
_MARK = "2:"

Read = Callable[[str, Sequence[float]], Sequence[float]]
"""Gives the elements of a layer's flattened weight at positions from 0 to 1: element floor(position * size)."""


@dataclass(frozen=True)
class Fingerprint:
    """Sampled weight values as text, and the layers they are of, in the order of their names."""

    text: str
    layers: tuple[str, ...]

    @staticmethod
    def of(names: Sequence[str], read: Read) -> Fingerprint:
        """The fingerprint of a model with these quantizable layers, in any order."""
        ordered = tuple(sorted(names))
        return _encoded(
            torch.tensor([list(read(name, positions(name))) for name in ordered], dtype=torch.float32), ordered
        )

    def of_layers(self, names: Iterable[str]) -> Fingerprint:
        """The part of it that is of these layers, as far as they are in it."""
        place = {name: number for number, name in enumerate(self.layers)}
        ordered = tuple(sorted(name for name in names if name in place))
        return _encoded(self._values().view(-1, ELEMENTS)[[place[name] for name in ordered]], ordered)

    @staticmethod
    def parse(text: str, layers: Sequence[str]) -> Fingerprint | None:
        """A stored fingerprint; ``None`` for an empty one. Errors: ValueError when it is malformed."""
        if not text:
            return None
        if not text.startswith(_MARK):
            raise ValueError("the model's fingerprint is of an unreleased version: calibrate again")
        fingerprint = Fingerprint(text, tuple(layers))
        if len(fingerprint._values()) != ELEMENTS * len(layers):
            raise ValueError("the model's fingerprint does not fit its layers")
        return fingerprint

    @property
    def digest(self) -> str:
        """A short form of it, for people and metadata; equal for equal values alone."""
        return hashlib.sha256(self.text.encode("ascii")).hexdigest()[:16]

    def matches(self, other: Fingerprint) -> bool:
        """Whether both are of the same weights, up to rounding to a float type of 16 bits."""
        if self.layers != other.layers:
            return False
        a, b = self._values(), other._values()
        rounded = (a.to(_type_of(b)).float() == b) | (b.to(_type_of(a)).float() == a)
        return bool(rounded.all())

    def _values(self) -> torch.Tensor:
        data = base64.b64decode(self.text.removeprefix(_MARK), validate=True)
        if len(data) % 4:
            raise ValueError("the model's fingerprint is cut short")
        return torch.frombuffer(bytearray(data), dtype=torch.float32) if data else torch.empty(0)


def _encoded(values: torch.Tensor, layers: tuple[str, ...]) -> Fingerprint:
    return Fingerprint(_MARK + base64.b64encode(values.numpy().astype("<f4").tobytes()).decode("ascii"), layers)


def positions(name: str) -> tuple[float, ...]:
    """Where a layer is sampled, from 0 to 1."""
    data = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return tuple(int.from_bytes(data[8 * i : 8 * i + 6], "little") / 2**48 for i in range(ELEMENTS))


def elements_at(tensor: torch.Tensor, places: Iterable[float]) -> list[float]:
    """Elements of a flattened tensor at places from 0 to 1: element floor(place * size)."""
    flat = tensor.detach().flatten()
    return flat[[int(place * flat.numel()) for place in places]].float().tolist()


def _type_of(values: torch.Tensor) -> torch.dtype:
    """The coarsest float type that holds all of these values."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(values.to(dtype).float(), values):
            return dtype
    return torch.float32
