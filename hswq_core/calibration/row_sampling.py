"""Which input rows of which layers are sampled: decided and carried out here and nowhere else.

In each call of a layer, in this order:

1. At its first call a layer gets a reservoir of its own, that of its leader, or none (``_begin``).
2. A follower samples nothing: its leader has taken the rows of the same tensor.
3. At the reservoir's first rows a random phase is drawn; where the reservoir is too small, half of its rows are drawn
   to stay.
4. The positions of this call are drawn: the same for all layers with as many, anew for each call of the model.
5. An accumulator takes the rows (``RowSample.take``, or a kernel that sums and takes in one launch).
6. ``commit`` sends them to RAM.

When a follower separates, it gets a copy of the reservoir. The rows depend on the seed and on this order alone.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from .host_copy import HostCopy
from .layer_state import LayerState, count_positions
from .positions import PositionSampler
from .reservoir import Reservoir
from .row_sample import RowSample
from .statistics import Statistics

_FULL = 0.9
"""From this share of its size on, a sample counts as full: later runs need not fill it up."""


class RowSampling:
    """The samples of all layers of a run. Args as for ``DualMonitor``."""

    def __init__(self, rows_per_layer: int, seed: int, expected_calls: int, earlier: Statistics | None) -> None:
        self._rows_per_layer, self._expected_calls, self._earlier = rows_per_layer, expected_calls, earlier
        self._positions, self._host_copy = PositionSampler(seed), HostCopy()
        self._reservoirs: dict[str, Reservoir | None] = {}

    def begin_call(self) -> None:
        """A call of the model begins."""
        self._positions.renew()

    def end_call(self) -> None:
        """A call of the model is over."""
        self._host_copy.end_call()

    def end_run(self) -> None:
        """No call follows."""
        self._host_copy.wait()

    def sample(self, layer: LayerState, x: torch.Tensor, y: torch.Tensor, channel: int) -> RowSample | None:
        """Which rows of a call to take; ``None`` for none.

        Args:
            layer: whose leader for this call is known.
            x: its input, [..., C_in] or [B, C_in, H, W].
            y: its output; each of its positions multiplies one row.
            channel: the dimension of the channels, in both.
        """
        if not layer.input_rows:
            own = layer.leader is layer
            self._reservoirs[layer.name] = (
                self._begin(layer, x, channel) if own else self._reservoirs[layer.leader.name]
            )
        reservoir, seen = self._reservoirs[layer.name], count_positions(y, channel)
        if reservoir is None or layer.leader is not layer or not seen:
            return None
        assert layer.device is not None
        if not reservoir.has_rate:
            reservoir.set_rate(seen, self._positions.phase(seen))
        while reservoir.is_too_small(seen):
            self._host_copy.wait()
            reservoir.keep(self._positions.pick(reservoir.count // 2, reservoir.count, layer.device).cpu())
        first, count = reservoir.count, reservoir.reserve(seen)
        if not count:
            return None
        window, patch_index = layer.window, None
        width = x.shape[-1] if window is None else x.shape[-3] * math.prod(window.kernel)
        if window is not None:
            area, size = y.shape[-2:], x.shape[-2:]
            patch_index = partial(self._positions.patches, count, area, window, size, seen, x.device)
        positions, memory = self._positions.pick(count, seen, layer.device), reservoir.memory(width)
        if not self._host_copy.needs_copy(layer.device):
            return RowSample(positions, memory, first, patch_index)
        rows = torch.empty(count, width, dtype=torch.float16, device=layer.device)
        return RowSample(positions, rows, 0, patch_index, memory[first : first + count])

    def commit(self, sample: RowSample | None) -> None:
        """An accumulator has taken the rows."""
        if sample is not None and sample.target is not None:
            self._host_copy.send(sample.rows, sample.target)

    def separate(self, leader: LayerState, follower: LayerState) -> None:
        """The follower gets the rows that its leader had when the present call of the model began."""
        reservoir = self._reservoirs.get(follower.name)
        if reservoir is not None:
            self._host_copy.wait()
            # The leader may have been called already in this call of the model, with what is not the follower's input.
            self._reservoirs[follower.name] = reservoir.copy(without_last=leader.called)

    def rows(self) -> dict[str, torch.Tensor]:
        """The samples by layer, float16 [R, K] in RAM; the same tensor for all layers that share it."""
        self._host_copy.wait()
        samples = {reservoir: reservoir.sample() for reservoir in self._reservoirs.values() if reservoir is not None}
        found = {name: samples[reservoir] for name, reservoir in self._reservoirs.items() if reservoir is not None}
        return {name: rows for name, rows in found.items() if rows is not None}

    def _begin(self, layer: LayerState, x: torch.Tensor, channel: int) -> Reservoir | None:
        """A reservoir for a layer whose first input is ``x``; ``None`` where nothing is sampled."""
        size, rows = self._rows_per_layer, count_positions(x, channel)
        expected = rows * self._expected_calls
        if not size or not rows or (layer.spatial and layer.window is None):
            return None
        before = self._earlier.layers.get(layer.name) if self._earlier else None
        if self._earlier and before and before.rows is not None and len(before.rows) >= _FULL * size:
            # Some samplers call the model twice a step; the runs before this one tell.
            expected = max(expected, before.input_rows // self._earlier.runs)
            share = size * expected / (expected + before.input_rows)
            # The share that the merged sample takes is binomial: four standard deviations more are always enough.
            size = min(size, math.ceil(share + 4 * math.sqrt(share)))
        return Reservoir(size, expected / rows)
