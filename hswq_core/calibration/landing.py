"""Sampled rows on their way from the device to RAM, without the device or the host waiting for each other.

A call of the model gives about a hundred megabytes of rows for SDXL. Each layer's few go to pinned memory by a copy
that nobody waits for; when the call has ended on the device, a thread puts them where they belong. So the device never
holds more than one layer's rows of one call.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

_CALLS_UNDER_WAY = 2


class Landing:
    """One for a monitor: ``send`` rows, ``end_call`` after each call of the model, ``wait`` before they are read."""

    def __init__(self) -> None:
        self._pinned: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._devices: set[torch.device] = set()
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: list[Future[None]] = []

    def is_needed(self, device: torch.device) -> bool:
        """Whether rows on a device have a way to go; on the CPU they are taken where they stay."""
        return device.type != "cpu"

    def send(self, rows: torch.Tensor, place: torch.Tensor) -> None:
        """Bring rows to a place in RAM of the same shape. Without pinned memory they are there at once."""
        if rows.device.type != "cuda":
            place.copy_(rows)
            return
        try:
            pinned = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        except RuntimeError:  # the system allows no more of it
            place.copy_(rows)
            return
        pinned.copy_(rows, non_blocking=True)
        self._pinned.append((pinned, place))
        self._devices.add(rows.device)

    def end_call(self) -> None:
        """What was sent since the last time is put in its place as soon as the device has come so far."""
        if not self._pinned:
            return
        sent, self._pinned = self._pinned, []
        # The model may be on another card than the current one, or on several.
        arrived = [torch.cuda.current_stream(device).record_event() for device in self._devices]
        self._devices.clear()
        self._thread = self._thread or ThreadPoolExecutor(1, "hswq-rows")
        self._under_way.append(self._thread.submit(_put, arrived, sent))
        if len(self._under_way) > _CALLS_UNDER_WAY:
            self._under_way.pop(0).result()

    def wait(self) -> None:
        """Everything that was sent is in its place."""
        self.end_call()
        while self._under_way:
            self._under_way.pop(0).result()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _put(arrived: list[Any], sent: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for event in arrived:
        event.synchronize()
    for pinned, place in sent:
        place.copy_(pinned)
