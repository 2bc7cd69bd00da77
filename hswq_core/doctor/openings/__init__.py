"""What opens a file, and how: ComfyUI's own loaders by version, HSWQ Loader, and others by name."""

from __future__ import annotations

from collections.abc import Sequence

from ..contents import Contents
from ..findings.finding import NOISE, Finding
from .opening import Opening
from .others import other_loaders
from .ours import hswq_loader
from .stock import NEW, OLD, stock_loader

__all__ = ["NEW", "OLD", "Opening", "openings_of"]


def openings_of(contents: Contents, findings: Sequence[Finding] = ()) -> list[Opening]:
    """Of every loader that is known, the ones that are for just this kind of file last.

    Args: findings: what is wrong with the file.
    """
    ours = hswq_loader(contents)
    stock = [stock_loader(contents, version, ours_opens=ours.opens) for version in (OLD, NEW)]
    noise = next((finding for finding in findings if finding.name in NOISE), None)
    found = [*stock, ours, *other_loaders(contents)]
    if noise is None:
        return found
    return [Opening(each.loader, "noise", noise.what, noise.remedy) if each.opens else each for each in found]
