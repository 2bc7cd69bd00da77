"""Cards by their published figures, and a small model of the time that counted work takes on one.

An operation takes the card as long as its bytes or its products, whichever is slower, and never less than a kernel
does at all. The host issues one launch after another meanwhile. A step takes as long as the slower of the two.

Bandwidths and peaks are the vendor's: the data sheet of the H100 SXM, and the appendices of the white papers on the
Turing, Ampere GA102, Ada and RTX Blackwell architectures (peaks without sparsity; GeForce cards add up in 32 bits at
half their FP16 and FP8 peak). What programs reach of them, and what a launch costs, is taken from the one card that
was measured; a launch costs as much on another card, with that host's processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .card_counts import StepCount

LAUNCH = 53.9e-3 / 2_013
"""Seconds of the host for a launch, with all the Python around it: the H100's plain step over the launches that are
counted in it (2,225 were measured: libraries launch more than one kernel for some products)."""
KERNEL = 4e-6
"""Seconds that a kernel takes at least."""
OF_BANDWIDTH = 0.75
"""What is reached of the published bandwidth."""


@dataclass(frozen=True)
class Card:
    """A card.

    Attributes:
        memory: bytes.
        bandwidth: bytes a second.
        reached: what products reach of the peaks. The H100's, with which its plain step is busy for what was measured,
            is low: SDXL's matrices do not fill it. For the others it is an assumption.
        peaks: products a second by type, where the card has it.
    """

    memory: float
    bandwidth: float
    reached: float
    peaks: Mapping[str, float]

    def busy(self, step: StepCount) -> float | None:
        """Seconds that the card computes; ``None`` if it cannot."""
        if any(each.products and each.kind not in self.peaks for each in step.operations):
            return None
        found = 0.0
        for each in step.operations:
            multiplying = each.products / (self.reached * self.peaks[each.kind]) if each.products else 0.0
            moving = each.moved / (OF_BANDWIDTH * self.bandwidth)
            found += max(moving, multiplying, KERNEL * each.launches)
        return found

    def seconds(self, step: StepCount) -> float | None:
        """Of a step."""
        busy = self.busy(step)
        return None if busy is None else max(busy, issuing(step))


def issuing(step: StepCount) -> float:
    """Seconds that the host takes to issue a step."""
    return LAUNCH * (step.launches + step.copies)


def _card(gigabytes: float, gigabytes_a_second: float, reached: float, **teraflops: float) -> Card:
    peaks = {kind: value * 1e12 for kind, value in teraflops.items()}
    return Card(gigabytes * (1 << 30), gigabytes_a_second * 1e9, reached, peaks)


CARDS = {
    "RTX 2060": _card(6, 336, 0.7, half=25.8, int8=103.2, float=6.5),
    "RTX 3060": _card(12, 360, 0.7, half=25.5, int8=101.9, float=12.7),
    "RTX 4070": _card(12, 504, 0.7, half=58.3, int8=233.2, fp8=116.6, float=29.1),
    "RTX 5080": _card(16, 960, 0.7, half=112.6, int8=450.2, fp8=225.1, float=56.3),
    "H100": _card(80, 3_350, 0.41, half=989.4, int8=1_978.9, fp8=1_978.9, float=66.9),
}
