"""What opens a file, and how: ComfyUI's own loaders by version, HSWQ Loader, and others by name."""

from __future__ import annotations

from ..contents import Contents
from .opening import Opening
from .others import other_loaders
from .ours import hswq_loader
from .stock import NEW, OLD, stock_loader

__all__ = ["NEW", "OLD", "Opening", "openings_of"]


def openings_of(contents: Contents) -> list[Opening]:
    """Of every loader that is known, the ones that are for just this kind of file last."""
    ours = hswq_loader(contents)
    stock = [stock_loader(contents, version, ours_opens=ours.opens) for version in (OLD, NEW)]
    return [*stock, ours, *other_loaders(contents)]
