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
        _known.clear()
        found = _known[source.identity] = {}
    keys = {name: key_of(name) for name in layers}
    missing = [key for key in keys.values() if key not in found]  # another part of the file was asked for before
    found |= zip(missing, ordered_map(lambda key: float(source.tensor(key).abs().max()), missing), strict=True)
    return {name for name, key in keys.items() if found[key] > limit}
