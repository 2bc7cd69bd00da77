"""File names that are safe on every system, and the model card's default name."""

from __future__ import annotations

import itertools
import re
from pathlib import Path, PurePath

from ..errors import CheckpointError, TargetError, is_printable
from ..formats import FORMATS
from ..options import QuantizeOptions
from .header import PICKLED

# Windows refuses these with any extension, and a file so named cannot leave a Linux machine.
_NUMBERED = (f"{port}{number}" for port in ("com", "lpt") for number in "123456789\xb9\xb2\xb3")
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$", *_NUMBERED}
# The last range is half of a character: of a name in a workflow, or of one on disk that is not UTF-8.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\ud800-\udfff]')
EXTENSION = ".safetensors"
_OTHERS = (*PICKLED, ".gguf", ".sft")
_LONGEST = 200
"""Bytes of a name without its extension: file systems allow 255, and temporary files beside it have longer ones."""


def safe_file_name(name: str, what: str = "file name") -> str:
    """``name`` with the extension .safetensors.

    Errors: TargetError for a name that is empty, contains a separator, a drive, a forbidden character or half of one,
    begins or ends with a dot or a blank, has the extension of another kind of file, is too long for a file system,
    or is reserved on Windows.
    """
    if name.lower().endswith(_OTHERS):
        raise TargetError(
            f"{name!r} cannot be used as a {what}: what is written is a safetensors file, whatever its name",
            remedy="Let it end in .safetensors, or in nothing",
        )
    stem = name[: -len(EXTENSION)] if name.lower().endswith(EXTENSION) else name
    check_stem(stem, name, what)
    return stem + EXTENSION


def check_stem(stem: str, name: str, what: str = "file name", longest: int = _LONGEST) -> None:
    """Errors: TargetError for a name, less its extension, that is not a file's on every system: files travel.

    Args:
        name: as it was given.
        longest: in bytes.
    """
    remedy = "Use letters, digits, '.', '_' and '-'"
    if not stem or stem != stem.strip(" ."):
        raise TargetError(
            f"{name!r} cannot be used as a {what}: it is empty, or begins or ends with a dot or a blank", remedy=remedy
        )
    if len(_encoded(stem)) > longest:
        raise TargetError(f"{name[:40]!r}... is too long as a {what}", remedy=f"Use at most {longest} bytes")
    if _FORBIDDEN.search(name):
        raise TargetError(
            f"{name!r} cannot be used as a {what}: it contains a separator, a forbidden character or half of one",
            remedy=remedy,
        )
    if _is_reserved(stem):
        raise TargetError(f"{name!r} cannot be used as a {what}: Windows reserves it", remedy=remedy)


def check_name(path: Path) -> None:
    """Errors: CheckpointError for a file that ComfyUI, and the safetensors library, cannot open for its name."""
    if not is_printable(str(path)):
        raise CheckpointError("ComfyUI opens no file whose name is not UTF-8", where=path, remedy="Rename it")


def usable_name(stem: str, room: int = 0) -> str:
    """A name made of another one that a file may have: cleaned, and shortened to leave ``room`` bytes for an ending."""
    cleaned = _FORBIDDEN.sub("_", stem)
    cleaned = _encoded(cleaned)[: _LONGEST - room].decode("utf-8", "ignore").strip(" .")
    if _is_reserved(cleaned):
        cleaned = f"_{cleaned}"
    return cleaned or "model"


def _is_reserved(stem: str) -> bool:
    return stem.split(".")[0].rstrip().lower() in _RESERVED


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def default_name(source: str, samples: int, options: QuantizeOptions) -> str:
    """The model card's pattern: NAME_hswq_r{samples}_r{keep_ratio}_{mode}.safetensors.

    A byte budget takes the place of the keep ratio, as b{budget}; what else differs from the model card's settings is
    added, so that files of different settings do not replace each other.
    """
    budget = options.budget.replace("%", "pct").replace(" ", "")
    kept = f"b{budget}" if budget else f"r{options.keep_ratio:g}"
    if FORMATS[options.mode].menu and not budget:
        kept = f"t{options.target}" if options.target else "knee"
    usual = QuantizeOptions(mode=options.mode)
    differing = [
        getattr(options, name)
        for name in ("selection", "rounding", "scales", "part")
        if getattr(options, name) != getattr(usual, name)
    ]
    if options.rotate:
        differing.append("rotated")
    if options.force_keep or options.force_quantize:
        differing.append("patterns")
    ending = "_".join(["_hswq", f"r{samples}", kept, options.mode, *differing])
    return usable_name(PurePath(source).stem, len(ending)) + ending + EXTENSION


def next_free(path: Path) -> Path:
    """The path itself, or where there is a file or folder already, the same with the next free number."""
    if not path.exists():
        return path
    ending = path.suffix if path.suffix == EXTENSION else ""  # other dots are part of the name
    stem = path.name.removesuffix(ending)
    numbered = (path.with_name(f"{stem}_{number}{ending}") for number in itertools.count(2))
    return next(path for path in numbered if not path.exists())
