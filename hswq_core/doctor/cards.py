"""Cards by their published figures.

Bandwidths and peaks are the vendor's: the data sheet of the H100 SXM, and the appendices of the white papers on the
Turing, Ampere GA102, Ada and RTX Blackwell architectures (peaks without sparsity; GeForce cards add up in 32 bits at
half their FP16 and FP8 peak). What a card of another name can multiply follows from its compute capability, by the
CUDA programming guide's table of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import PlanError, nearest_name


@dataclass(frozen=True)
class PublishedCard:
    """A card.

    Attributes:
        memory: bytes.
        bandwidth: bytes a second.
        peaks: products a second by type ("half", "int8", "fp8", "float"), where the card has it.
        capability: CUDA's compute capability.
    """

    memory: float
    bandwidth: float
    peaks: Mapping[str, float]
    capability: tuple[int, int]


def _card(
    gigabytes: float, gigabytes_a_second: float, capability: tuple[int, int], **teraflops: float
) -> PublishedCard:
    peaks = {kind: value * 1e12 for kind, value in teraflops.items()}
    return PublishedCard(gigabytes * (1 << 30), gigabytes_a_second * 1e9, peaks, capability)


PUBLISHED = {
    "RTX 2060": _card(6, 336, (7, 5), half=25.8, int8=103.2, float=6.5),
    "RTX 3060": _card(12, 360, (8, 6), half=25.5, int8=101.9, float=12.7),
    "RTX 4070": _card(12, 504, (8, 9), half=58.3, int8=233.2, fp8=116.6, float=29.1),
    "RTX 5080": _card(16, 960, (12, 0), half=112.6, int8=450.2, fp8=225.1, float=56.3),
    "H100": _card(80, 3_350, (9, 0), half=989.4, int8=1_978.9, fp8=1_978.9, float=66.9),
}
_CAPABILITIES = (
    (r"gtx 10\d\d|p100|p40", (6, 1)),
    (r"v100|titan v", (7, 0)),
    (r"gtx 16\d\d|rtx 20\d\d|t4|titan rtx|quadro rtx( \d000)?", (7, 5)),
    (r"a100|a800|a30", (8, 0)),
    (r"rtx 30\d\d|rtx a\d000|a10g?|a40|a16", (8, 6)),
    (r"rtx 40\d\d|rtx \d000 ada|l4|l40s?", (8, 9)),
    (r"h20|h100|h200|h800|gh200", (9, 0)),
    (r"b100|b200|gb200", (10, 0)),
    (r"rtx 50\d\d|rtx pro \d000", (12, 0)),
)
_WORDS = re.compile(
    r"nvidia|geforce|\b(tesla|ti|super|laptop|gpu|with|max q|design|d|generation|sff|blackwell"
    r"|workstation|server|edition|sxm\d?|pcie|nvl|hbm\d\w*)\b|\d+ ?gb"
)
"""What names have beside the chip's: makes, forms and sizes, which do not change what is multiplied."""


def capability_of(name: str) -> tuple[int, int]:
    """The compute capability of a card, by its name. Errors: PlanError for one that is not known."""
    plain = " ".join(_WORDS.sub(" ", name.lower().replace("-", " ")).split())
    plain = re.sub(r"^(rtx|gtx)(\d)", r"\1 \2", plain)
    for pattern, capability in _CAPABILITIES:
        if re.fullmatch(pattern, plain):
            return capability
    guess = nearest_name(name, [known.lower() for known in PUBLISHED])
    meant = f"; the nearest is {guess.upper()!r}" if guess else ""
    raise PlanError(
        f"there is no card {name!r} that is known{meant}",
        remedy="Give NVIDIA's name of one since 2016, as in 'RTX 3060', 'RTX 4090', 'H100', or leave --card out",
    )


def published(name: str) -> PublishedCard | None:
    """The figures of a card; ``None`` where they are not here."""
    plain = " ".join(re.sub("nvidia|geforce|80gb hbm3", " ", name.lower()).split())  # the SXM, by its memory
    return next((card for known, card in PUBLISHED.items() if known.lower() == plain), None)
