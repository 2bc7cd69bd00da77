"""The random numbers of row sampling: a phase for each size of input, and positions of a call."""

from __future__ import annotations

import random
from typing import Any

import torch

from ..devices import has_generator
from .conv_patches import ConvWindow, PatchIndex


class PositionSampler:
    """Random positions of a call. All layers with as many positions get the same ones.

    Each layer's sample is uniform all the same, and a step makes a handful of permutations instead of hundreds.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._host = random.Random(seed)
        self._generators: dict[torch.device, torch.Generator] = {}
        self._phases: dict[int, float] = {}
        self._orders: dict[tuple[torch.device, int], torch.Tensor] = {}
        self._picked: dict[tuple[torch.device, int, int], torch.Tensor] = {}
        self._patches: dict[tuple[Any, ...], PatchIndex] = {}
        # What is on its way to a device: of this call of the model, and of the one before, which may not be over there.
        self._sent: list[torch.Tensor] = []
        self._sent_before: list[torch.Tensor] = []

    def renew(self) -> None:
        """A call of the model begins: forget the positions of the last one."""
        self._orders.clear()
        self._picked.clear()
        self._patches.clear()
        self._sent, self._sent_before = [], self._sent

    def phase(self, of: int) -> float:
        """A random number in [0, 1), the same for all layers with ``of`` positions, so that they sample as many."""
        return self._phases.setdefault(of, self._host.random())

    def pick(self, count: int, of: int, device: torch.device) -> torch.Tensor:
        """``count`` different positions out of ``of``, int64 on the device."""
        picked = self._picked.get((device, of, count))
        if picked is None:
            if (device, of) not in self._orders:
                self._orders[device, of] = self._order(of, device)
            picked = self._picked[device, of, count] = self._orders[device, of][:count]
        return picked

    def _order(self, of: int, device: torch.device) -> torch.Tensor:
        """All positions in a random order, drawn on the CPU where the device cannot: then nothing waits for it."""
        where = device if has_generator(device) else torch.device("cpu")
        if where not in self._generators:
            self._generators[where] = torch.Generator(where).manual_seed(self._seed)
        order = torch.randperm(of, device=where, generator=self._generators[where])
        if where == device:
            return order
        self._sent.append(order)
        return order.to(device, non_blocking=True)

    def patches(
        self,
        count: int,
        area: tuple[int, ...],
        window: ConvWindow,
        size: tuple[int, ...],
        of: int,
        device: torch.device,
    ) -> PatchIndex:
        """The patches at ``count`` output positions out of ``of``. Args as for ``PatchIndex.of``."""
        key = (device, of, count, area, window, size)
        if key not in self._patches:
            self._patches[key] = PatchIndex.of(self.pick(count, of, device), area, window, size)
        return self._patches[key]
