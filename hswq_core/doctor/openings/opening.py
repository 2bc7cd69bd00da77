"""What comes of opening a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["opens", "fails", "noise", "refuses", "unknown"]
"""``fails``: it opens, and the first step raises an error. ``noise``: codes are taken for weights."""
WORST: tuple[Outcome, ...] = ("opens", "unknown", "noise", "fails", "refuses")
HSWQ_LOADER = "HSWQ Loader"


@dataclass(frozen=True)
class Opening:
    """Attributes:
    reason: why, where the outcome is not ``opens``.
    remedy: what to do then.
    """

    loader: str
    outcome: Outcome
    reason: str = ""
    remedy: str = ""

    @property
    def opens(self) -> bool:
        return self.outcome == "opens"

    def as_dict(self) -> dict[str, str]:
        return {key: str(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.outcome}{why}" + (f". {self.remedy}" if self.remedy else "")


def worst(found: list[tuple[Outcome, str]]) -> tuple[Outcome, str]:
    """The outcome of a file whose layers have these; of equals, the first."""
    return max(found, key=lambda each: WORST.index(each[0]), default=("opens", ""))
