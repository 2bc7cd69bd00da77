"""The card's memory as comfy-aimdo manages it, emulated where its library needs a driver: pages that come and go.

It stands for the library alone. ComfyUI's and comfy-aimdo's Python run above it, unchanged.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import Counter
from typing import Any

PAGE = 16 << 10
"""Bytes; those of a real card are 32 MiB, more than the whole tiny model."""
GONE = 0xFF
"""What a page is overwritten with when it is taken away: as a float not a number, as a code -1."""
_DONE, _NO_ROOM = 0, 1


class _Region:
    """Addresses that are reserved for one model; ``pages`` are those with memory, by number, with when they got it."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, max(size, PAGE) + PAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.pages: dict[int, int] = {}
        self.pins: Counter[int] = Counter()

    def loose(self) -> list[int]:
        return [page for page in self.pages if not self.pins[page]]

    def drop(self, page: int) -> None:
        del self.pages[page]
        ctypes.memset(self.address + page * PAGE, GONE, PAGE)


class Pages:
    """What comfy-aimdo asks of its library, with a budget.

    Attributes:
        budget: bytes of the card that models may have.
        counts: what happened: ``resident``, ``loaded``, ``refused``, ``evicted``.
    """

    def __init__(self) -> None:
        self.budget = 1 << 40
        self.counts: Counter[str] = Counter()
        self._regions: dict[int, _Region] = {}
        self._files: dict[int, tuple[Any, Any, int]] = {}
        self._last = 0

    @property
    def used(self) -> int:
        return PAGE * sum(len(region.pages) for region in self._regions.values())

    @property
    def pinned(self) -> int:
        """How many times pages are held by somebody who has not given them back."""
        return sum(sum(region.pins.values()) for region in self._regions.values())

    def get_devctx(self, _device: int) -> int:
        return 1

    def vbar_allocate(self, _card: int, size: int, _device: int) -> int:
        return self._keep(self._regions, _Region(size))

    def vbar_get(self, _card: int, handle: int) -> int:
        return self._regions[handle].address

    def vbar_free(self, _card: int, handle: int) -> None:
        # Its addresses stay: tensors may still look at them.
        region = self._regions[handle]
        region.pins.clear()
        for page in list(region.pages):
            region.drop(page)

    def vbar_fault(self, _card: int, handle: int, offset: int, size: int, signature: Any) -> int:
        region, wanted = self._regions[handle], _pages_of(offset, size)
        missing = [page for page in wanted if page not in region.pages]
        if missing and not self._make_room(len(missing) * PAGE, region, set(wanted)):
            self.counts["refused"] += 1
            return _NO_ROOM
        self.counts["loaded" if missing else "resident"] += 1
        for page in missing:
            self._last += 1
            region.pages[page] = self._last
        region.pins.update(wanted)
        # Numbers grow, so the largest one changes with any page.
        signature[0] = max(region.pages[page] for page in wanted)
        return _DONE

    def vbar_unpin(self, _card: int, handle: int, offset: int, size: int) -> None:
        pins = self._regions[handle].pins
        for page in _pages_of(offset, size):
            if not pins[page]:
                raise RuntimeError("a page is given back that nobody held")
            pins[page] -= 1

    def vbar_loaded_size(self, _card: int, handle: int) -> int:
        return PAGE * len(self._regions[handle].pages)

    def vbar_free_memory(self, _card: int, handle: int, size: int) -> int:
        region, freed = self._regions[handle], 0
        for page in region.loose():
            if freed >= size:
                break
            region.drop(page)
            freed += PAGE
        return freed

    def vbars_analyze(self, *_: Any) -> int:
        return PAGE * sum(len(region.loose()) for region in self._regions.values())

    def vbar_prioritize(self, *_: Any) -> None:
        """Models are not told apart here."""

    vbar_deprioritize = vbars_reset_watermark_limits = aimdo_analyze = vbar_prioritize

    def hostbuf_allocate(self, *_: Any) -> int:
        """Memory of the host that a card can read; with pinning switched off nobody uses it."""
        return 1

    def hostbuf_free(self, *_: Any) -> None:
        """Nothing was taken."""

    def hostbuf_truncate(self, *_: Any) -> bool:
        return True

    def hostbuf_file_reader_read(
        self, _device: int, file: int, offset: int, size: int, _stream: Any, address: int, _cold: bool
    ) -> bool:
        ctypes.memmove(address, os.pread(file, size, offset), size)
        return True

    def model_mmap_allocate(self, path: bytes) -> int:
        file = os.open(path, os.O_RDONLY)
        memory = mmap.mmap(file, 0, access=mmap.ACCESS_COPY)
        return self._keep(self._files, (file, memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))))

    def model_mmap_get(self, handle: int) -> int:
        return self._files[handle][2]

    def model_mmap_get_file_handle(self, handle: int) -> int:
        return self._files[handle][0]

    def model_mmap_bounce(self, _handle: int) -> bool:
        return True

    def model_mmap_deallocate(self, handle: int) -> None:
        os.close(self._files.pop(handle)[0])

    def _keep(self, store: dict[int, Any], value: Any) -> int:
        handle = len(store) + 1 + max(store, default=0)
        store[handle] = value
        return handle

    def _make_room(self, size: int, region: _Region, wanted: set[int]) -> bool:
        """Take the oldest pages away from whoever does not hold them; every other time the model is refused instead."""
        if self.used + size <= self.budget:
            return True
        self.counts["short"] += 1
        if self.counts["short"] % 2:
            return False
        loose = [
            (serial, other, page)
            for other in self._regions.values()
            for page, serial in other.pages.items()
            if not other.pins[page] and not (other is region and page in wanted)
        ]
        for _, other, page in sorted(loose, key=lambda each: each[0]):
            if self.used + size <= self.budget:
                break
            other.drop(page)
            self.counts["evicted"] += 1
        return self.used + size <= self.budget


def _pages_of(offset: int, size: int) -> range:
    return range(offset // PAGE, (offset + size - 1) // PAGE + 1)
