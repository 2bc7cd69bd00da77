"""What our work needs on a card beside the model, told to ComfyUI's memory manager before it begins."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch


def make_room(device: torch.device, needed: int) -> None:
    """Have ComfyUI free so many bytes of a card; of a CPU nothing is asked."""
    if device.type != "cpu":
        comfy.model_management.free_memory(needed, device)


def total_memory(device: torch.device) -> int:
    """Bytes that a device has in all: a card's own, or the machine's."""
    return int(comfy.model_management.get_total_memory(device))


@contextmanager
def reserved_memory(base_model: Any, extra: int) -> Iterator[None]:
    """Meanwhile a run of the model asks for so many bytes more, so that ComfyUI leaves them free.

    Args:
        base_model: ComfyUI's BaseModel, which estimates what a run takes; the runs of its clones ask it.
    """
    before = vars(base_model).get("memory_required")
    estimate = base_model.memory_required

    @functools.wraps(estimate)  # versions, and other tools, ask which arguments it takes
    def with_ours(*args: Any, **kwargs: Any) -> Any:
        return estimate(*args, **kwargs) + extra

    base_model.memory_required = with_ours
    try:
        yield
    finally:
        if before is None:
            del base_model.memory_required  # the instance's alone: the class's own is there again
        else:
            base_model.memory_required = before
