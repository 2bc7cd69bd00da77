"""One thing that is wrong with a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

AGAIN = "Mend it with its original ('hswq doctor --repair'), quantize that again, or download the file again"

NOISE = ("scale-stripped", "scale-inverted", "codes-for-weights", "too-large", "not-finite")
"""Of which images are noise in every loader that opens the file."""


@dataclass(frozen=True)
class Finding:
    """Attributes:
    name: of the problem, for programs: "scale-missing".
    is_error: whether images will be wrong; otherwise it is good to know.
    layers: by their names in the file.
    """

    name: str
    is_error: bool
    what: str
    remedy: str
    layers: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        where = "" if not self.layers else f" ({_some(self.layers)})"
        return f"{self.what}{where}. {self.remedy}." if self.remedy else f"{self.what}{where}."


def together(name: str, what: str, remedy: str, layers: Iterable[str], *, is_error: bool = True) -> Iterator[Finding]:
    """One finding of all layers that have the problem; none where no layer has it."""
    if names := tuple(layers):
        yield Finding(name, is_error, what, remedy, names)


def _some(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} layers, the first is {names[0]}"
