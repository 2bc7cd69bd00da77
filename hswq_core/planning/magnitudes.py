"""Which layers have weights that a format without scales cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..files.source import FileIdentity, TensorSource
from ..parallel import ordered_map

_known: dict[FileIdentity, dict[str, float]] = {}


def layers_beyond(source: TensorSource, layers: Sequence[str], key_of: Callable[[str], str], limit: float) -> set[str]:
    """The layers with a weight whose magnitude is above the limit.

    Every weight is read for it, once for a source in one state: the chart of sizes asks again and again.
    """
    found = _known.get(source.identity)
    if found is None:
        largest = ordered_map(lambda name: float(source.tensor(key_of(name)).abs().max()), layers)
        found = dict(zip(layers, largest, strict=True))
        _known.clear()
        _known[source.identity] = found
    return {name for name in layers if found.get(name, 0.0) > limit}
