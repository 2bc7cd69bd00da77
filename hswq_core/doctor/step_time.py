"""How long a step of SDXL takes on a card that need not be here: a model's figures, not measured.

``python -m benchmarks.card_model`` counts what a step at 1024 x 1024 with guidance launches, moves and multiplies, and
makes time of it by the figures in ``cards.py``; docs/benchmarks.md has the table and how it compares with a card that
was measured. It is for SDXL's shapes and for formats of HSWQ in HSWQ Loader alone: of all else there is no time here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .cards import PUBLISHED, published
from .kinds import FP8, HSWQ_PACKED, INT8, V2, Kind
from .machine import Machine

SDXL = "stable-diffusion-xl-v1-base"
MODELLED = {
    "plain": (830, 833, 387, 201, 54),
    "V2": (857, 859, 405, 211, 73),
    "V2, fast": (None, None, 321, 168, 91),
    "int8": (857, 859, 405, 211, 73),
    "int8, fast": (623, 614, 325, 170, 91),
    "mixed": (855, 857, 404, 210, 73),
}
"""Milliseconds of a step, on the cards in the order of ``PUBLISHED``; ``None`` where the card cannot."""
_ROWS: dict[Kind, str] = {
    **dict.fromkeys((FP8, V2), "V2"),
    INT8: "int8",
    **dict.fromkeys(HSWQ_PACKED.values(), "mixed"),
}


def step_times(family: str, kinds: Iterable[Kind], machine: Machine) -> Mapping[str, int]:
    """Milliseconds of a step in HSWQ Loader, by ``compute`` ("exact", "fast"), and of the original ("FP16").

    Empty where the model does not reach: other architectures, kinds and cards.
    """
    rows = {_ROWS.get(kind) for kind in kinds}
    row = "mixed" if rows == {"mixed", "int8"} else next(iter(rows)) if len(rows) == 1 else None
    if family != SDXL or published(machine.name) is None or row is None:
        return {}
    card = [published(name) for name in PUBLISHED].index(published(machine.name))
    found = {"FP16": MODELLED["plain"][card], "exact": MODELLED[row][card]}
    found["fast"] = MODELLED.get(f"{row}, fast", MODELLED[row])[card]
    return {compute: time for compute, time in found.items() if time is not None}
