"""File names that are safe on every system, and the model card's default name."""

from __future__ import annotations

import re
from pathlib import PurePath

from ..errors import TargetError

# Windows refuses these with any extension, and a file so named cannot leave a Linux machine.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))}
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
EXTENSION = ".safetensors"


def safe_file_name(name: str, what: str = "file name") -> str:
    """``name`` with the extension .safetensors.

    Errors: TargetError for a name that is empty, contains a separator, a drive or a forbidden character,
    begins or ends with a dot or a blank, or is reserved on Windows.
    """
    stem = name[: -len(EXTENSION)] if name.lower().endswith(EXTENSION) else name
    remedy = "Use letters, digits, '.', '_' and '-'"
    if not stem or stem != stem.strip(" .") or len(stem) > 200:
        raise TargetError(f"{name!r} cannot be used as a {what}", remedy=remedy)
    if _FORBIDDEN.search(stem):
        raise TargetError(
            f"{name!r} cannot be used as a {what}: it contains a separator or a forbidden character", remedy=remedy
        )
    if stem.split(".")[0].lower() in _RESERVED:
        raise TargetError(f"{name!r} cannot be used as a {what}: Windows reserves it", remedy=remedy)
    return stem + EXTENSION


def default_name(source: str, samples: int, keep: float | str, mode: str) -> str:
    """The model card's pattern: NAME_hswq_r{samples}_r{keep_ratio}_{mode}.safetensors.

    Args:
        keep: the keep ratio, or a byte budget, which takes its place as b{budget}.
    """
    kept = f"b{keep.replace('%', 'pct').replace(' ', '')}" if isinstance(keep, str) else f"r{keep:g}"
    return f"{PurePath(source).stem}_hswq_r{samples}_{kept}_{mode}{EXTENSION}"
