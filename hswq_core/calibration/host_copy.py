"""Copies sampled rows from the device to RAM without making the device or the host wait.

A call of the model gives about a hundred megabytes of rows for SDXL. The rows of each layer go to pinned memory by an
asynchronous copy; when the call has ended on the device, a thread copies them to their target. So the device never
holds more than one layer's rows of one call.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

_MAX_PENDING_CALLS = 2


class HostCopy:
    """``send`` rows, call ``end_call`` after each call of the model, and ``wait`` before the rows are read."""

    def __init__(self) -> None:
        self._pinned: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._devices: set[torch.device] = set()
        self._thread: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []

    def needs_copy(self, device: torch.device) -> bool:
        """Whether rows are copied; on the CPU they are taken into their target."""
        return device.type != "cpu"

    def send(self, rows: torch.Tensor, target: torch.Tensor) -> None:
        """Copy rows to a target in RAM of the same shape: at once where there is no pinned memory."""
        if rows.device.type != "cuda":
            target.copy_(rows)
            return
        try:
            pinned = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        except RuntimeError:  # the system allows no more of it
            target.copy_(rows)
            return
        pinned.copy_(rows, non_blocking=True)
        self._pinned.append((pinned, target))
        self._devices.add(rows.device)

    def end_call(self) -> None:
        """A call of the model is over: its rows are copied as soon as the device has computed them."""
        if not self._pinned:
            return
        sent, self._pinned = self._pinned, []
        # The model may be on another card than the current one, or on several.
        computed = [torch.cuda.current_stream(device).record_event() for device in self._devices]
        self._devices.clear()
        self._thread = self._thread or ThreadPoolExecutor(1, "hswq-rows")
        self._pending.append(self._thread.submit(_copy, computed, sent))
        if len(self._pending) > _MAX_PENDING_CALLS:
            self._pending.pop(0).result()

    def wait(self) -> None:
        """Return when all rows that were sent are in their targets."""
        self.end_call()
        while self._pending:
            self._pending.pop(0).result()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _copy(computed: list[Any], sent: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for event in computed:
        event.synchronize()
    # Threads are not in inference mode, in which ComfyUI samples, and without it tensors made in it are not written to.
    with torch.inference_mode():
        for pinned, target in sent:
            target.copy_(pinned)
