"""Memory for one weight at a time, which every layer of a run on the CPU uses again.

Large blocks go back to the system when they are freed, and come from it page by page, each filled with zeros: for a
weight of 50 MB that takes ten times as long as to dequantize into memory that is at hand (20 ms beside 2 ms).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch


class _Memory:
    def __init__(self) -> None:
        self.bytes = torch.empty(0, dtype=torch.uint8)


_memory: ContextVar[_Memory | None] = ContextVar("memory", default=None)
"""Of this thread: a thread that begins in a run has none."""


@contextmanager
def reused_memory() -> Iterator[None]:
    """Meanwhile ``memory_for`` has memory to give; it is freed at the end."""
    token = _memory.set(_Memory())
    try:
        yield
    finally:
        _memory.reset(token)


def memory_for(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """A tensor with arbitrary content that is good until the next call; ``None`` where it must be a new one.

    New ones are for gradients, which remember the weights that they are of; cards, whose memory is kept by torch; and
    compiled models.
    """
    memory = _memory.get()
    if memory is None or device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    size = math.prod(shape) * dtype.itemsize
    if memory.bytes.numel() < size:
        memory.bytes = torch.empty(0, dtype=torch.uint8)  # the smaller one goes first
        with torch.inference_mode(False):  # it can be written to in any mode
            memory.bytes = torch.empty(size, dtype=torch.uint8)
    return memory.bytes[:size].view(dtype).view(shape)
