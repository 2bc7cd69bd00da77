"""What damage makes of an opening: a file that is opened as it should be draws noise all the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..findings.finding import Finding
from .opening import Opening

_NOISE = ("scale-stripped", "scale-inverted", "too-large", "codes-for-weights", "not-finite")


def as_damaged(openings: Iterable[Opening], findings: Iterable[Finding]) -> list[Opening]:
    """The openings of a file in which this was found."""
    worst = next((finding for finding in findings if finding.name in _NOISE), None)
    if worst is None:
        return list(openings)
    return [
        replace(each, outcome="noise", reason=worst.what, remedy=worst.remedy) if each.opens else each
        for each in openings
    ]
