"""The hashes by which sites know a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files.source import FileIdentity
from ..progress import Progress, no_progress

_PIECE = 1 << 22
_known: dict[FileIdentity, dict[str, str]] = {}


def hashes_of(path: Path, progress: Progress = no_progress) -> dict[str, str]:
    """SHA256, AutoV2 (its first ten digits), and BLAKE3 where that package is at hand, in capitals as sites show them.

    They are made once for a file in one state, however often they are asked for.

    Args:
        progress: called with bytes done and bytes in all.
    """
    identity = FileIdentity.of(path, path.stat())
    if identity not in _known:
        _known[identity] = _made(path, progress)
    return dict(_known[identity])


def _made(path: Path, progress: Progress) -> dict[str, str]:
    total, done = path.stat().st_size, 0
    sha256, blake3 = hashlib.sha256(), _blake3()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            sha256.update(piece)
            if blake3 is not None:
                blake3.update(piece)
            done += len(piece)
            progress(done, total)
    digest = sha256.hexdigest().upper()
    found = {"SHA256": digest, "AutoV2": digest[:10]}
    return found if blake3 is None else found | {"BLAKE3": blake3.hexdigest().upper()}


def _blake3() -> Any:
    try:
        from blake3 import blake3
    except ImportError:  # recent ComfyUI has it, older ones do not
        return None
    make: Callable[[], Any] = blake3
    return make()
