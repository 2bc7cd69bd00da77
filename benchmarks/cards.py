"""Cards by their published figures, and a small model of the time that counted work takes on one.

An operation takes the card as long as its bytes or its products, whichever is slower, and never less than a kernel
does at all. The host issues one launch after another meanwhile. A step takes as long as the slower of the two.

The figures are in ``hswq_core/doctor/cards.py``. What programs reach of them, and what a launch costs, is taken from
the one card that was measured; a launch costs as much on another card, with that host's processor.
"""

from __future__ import annotations

from dataclasses import dataclass

from hswq_core.doctor.cards import PUBLISHED, PublishedCard

from .card_counts import StepCount

LAUNCH = 53.9e-3 / 2_013
"""Seconds of the host for a launch, with all the Python around it: the H100's plain step over the launches that are
counted in it (2,225 were measured: libraries launch more than one kernel for some products)."""
KERNEL = 4e-6
"""Seconds that a kernel takes at least."""
OF_BANDWIDTH = 0.75
"""What is reached of the published bandwidth."""


@dataclass(frozen=True)
class Card(PublishedCard):
    """A card.

    Attributes:
        reached: what products reach of the peaks. The H100's, with which its plain step is busy for what was measured,
            is low: SDXL's matrices do not fill it. For the others it is an assumption.
    """

    reached: float

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


CARDS = {name: Card(**vars(figures), reached=0.41 if name == "H100" else 0.7) for name, figures in PUBLISHED.items()}
