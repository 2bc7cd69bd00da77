"""Memory for a uniform sample of the rows of all calls of a layer, and how many rows each call gives.

Nothing here is random: ``row_sampling`` draws the numbers and brings the rows.
"""

from __future__ import annotations

from copy import copy

import torch


class Reservoir:
    """Every call gives rows in proportion to how many it has, so every row seen is as likely to be in the sample.

    When the sample would outgrow its size, half of it is dropped and later calls give half as much.

    Args:
        size: how many rows to keep, at most.
        calls: how many calls are expected; if there are as many, the sample ends with ``size`` rows exactly.

    Attributes:
        count: how many rows the sample has.
    """

    def __init__(self, size: int, calls: float = 1) -> None:
        self._size, self._calls = size, calls
        self._rate = self._due = 0.0
        self._rows: torch.Tensor | None = None
        self._previous = self.count = 0

    @property
    def has_rate(self) -> bool:
        """Whether the share of rows that a call gives is known."""
        return self._rate > 0

    def set_rate(self, seen: int, phase: float) -> None:
        """Args: seen: rows of the first call. phase: in [0, 1); makes fractions of rows right on average."""
        self._rate = min(1.0, self._size / (seen * self._calls))
        self._due = phase

    def is_too_small(self, seen: int) -> bool:
        """Whether half of the sample must go before a call of ``seen`` rows can give its share."""
        return self.count > 0 and self.count + self._count_from(seen) > self._size

    def keep(self, chosen: torch.Tensor) -> None:
        """Drop all rows but these, int64 [half]; from now on calls give half as much."""
        assert self._rows is not None
        self._rows[: len(chosen)] = self._rows[chosen]
        self.count, self._rate = len(chosen), self._rate / 2

    def reserve(self, seen: int) -> int:
        """Make room for the rows that a call of ``seen`` rows gives: how many they are."""
        count = min(self._count_from(seen), self._size, seen)
        self._due += self._rate * seen - count
        if count:
            self._previous, self.count = self.count, self.count + count
        return count

    def memory(self, width: int) -> torch.Tensor:
        """All of its memory, float16 [size, width] in RAM: the sample is the first ``count`` rows."""
        if self._rows is None:
            self._rows = torch.empty(self._size, width, dtype=torch.float16)
        return self._rows

    def sample(self) -> torch.Tensor | None:
        """The rows so far, float16 [count, K]; ``None`` when no call gave any."""
        return None if self._rows is None else self._rows[: self.count]

    def copy(self, *, without_last: bool) -> Reservoir:
        """An independent copy, with or without the rows of the last call that gave some."""
        other = copy(self)
        other.count = self._previous if without_last else self.count
        other._rows = None if self._rows is None else self._rows.clone()
        return other

    def _count_from(self, seen: int) -> int:
        return int(self._due + self._rate * seen)
