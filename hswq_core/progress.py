"""What a long job tells whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all; whatever it raises stops the job, and no file is left."""


def no_progress(_done: int, _total: int) -> None:
    """For jobs that nobody watches."""
