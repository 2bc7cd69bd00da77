"""What the diffusion model's weights take on a card, by loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..sizes import size_in_words
from .actions import is_plain_fp8
from .contents import Contents
from .machine import Machine
from .openings import NEW, OLD, Opening

_CROWDED = 1e9
"""Bytes of a card that the system, the driver and what libraries work in take."""


@dataclass(frozen=True)
class Memory:
    """Attributes:
    weights: bytes of the diffusion model's, as the loader holds them.
    ram: of all parts, which are there before they are on the card.
    expanded: of the largest layer in 16 bits, which is there for as long as it computes.
    card: of the card; ``None`` where that is not known.
    """

    loader: str
    weights: int
    ram: int
    expanded: int
    card: float | None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    @property
    def amount(self) -> str:
        """In words."""
        layer = f", and {size_in_words(self.expanded)} while the largest layer computes" if self.expanded else ""
        held = f"weights {size_in_words(self.weights)}{layer}, in RAM {size_in_words(self.ram)}"
        if self.card is None:
            return held
        fits = self.weights + self.expanded + _CROWDED < self.card
        rest = "" if fits else ": too much for it, a part will stay in RAM"
        return f"{held}; the card has {self.card / (1 << 30):.0f} GB{rest}"


def memory_of(contents: Contents, machine: Machine, openings: Sequence[Opening]) -> list[Memory]:
    """For every loader that opens it. Activations come on top, and grow with the image."""
    layers = contents.in_part("diffusion model")
    if not layers:
        return []
    stored = sum(info.nbytes for key, info in contents.tensors.items() if contents.part_of(key) == "diffusion model")
    codes = sum(layer.nbytes for layer in layers)
    weights = sum(layer.numel for layer in layers)
    largest = 2 * max(layer.numel for layer in layers)
    found = []
    for opening in openings:
        if opening.opens:
            # A model that stock loaders do not hold in FP8 they hold in 16 bits, as a whole.
            widened = opening.loader in (OLD, NEW) and is_plain_fp8(contents) and not machine.multiplies("fp8")
            held = stored - codes + 2 * weights if widened else stored
            ram = contents.nbytes - stored + held
            found.append(Memory(opening.loader, held, ram, 0 if widened else largest, machine.memory))
    return found
