"""Layers side by side on all cores, results in order, and never more of them in memory than are worked on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = 4
_BYTES_A_WEIGHT = 30
"""What a layer in work takes."""
WORKING_MEMORY = 1536 << 20
"""What the most workers take with SDXL's largest layers, bytes."""


def workers_on(device: torch.device, largest: int) -> int:
    """How many layers are worked on at a time: one a core, and on a card no more than fit into what is free there.

    Args: largest: weights of the largest layer.
    """
    workers = _most_workers()
    if device.type != "cuda":
        return workers
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused
    return max(1, min(workers, free // max(1, largest * _BYTES_A_WEIGHT)))


def working_memory(largest: int) -> int:
    """Bytes that the most workers take together. Args: largest: weights of the largest layer."""
    return _most_workers() * largest * _BYTES_A_WEIGHT


def _most_workers() -> int:
    return min(os.cpu_count() or 1, _MOST_WORKERS)


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """``map`` on threads (torch's operators leave Python's lock), with a bounded number of items under way.

    The first exception ends it, and closing the iterator drops what has not begun.
    """
    workers = workers or workers_on(torch.device("cpu"), 0)
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
