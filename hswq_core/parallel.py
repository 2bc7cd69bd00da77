"""Layers side by side on all cores, results in order, and never more of them in memory than are worked on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# A layer in work takes some 30 bytes a weight; more than this many of SDXL's largest would not fit in 1.5 GB.
_MOST_WORKERS = 4


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map`` on threads (torch's operators leave Python's lock), with a bounded number of items under way.

    The first exception ends it, and closing the iterator drops what has not begun.
    """
    workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
