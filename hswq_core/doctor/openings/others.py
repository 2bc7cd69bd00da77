"""Loaders for one kind of file, by name, where the file is of that kind."""

from __future__ import annotations

from ..contents import Contents
from .opening import Opening

LOADERS = {
    "gguf": ("ComfyUI-GGUF",),
    "bitsandbytes": ("ComfyUI_bitsandbytes_NF4", "Forge"),
    "llm.int8": ("diffusers with bitsandbytes",),
    "nunchaku": ("ComfyUI-nunchaku",),
    "torchao": ("diffusers with torchao",),
    "quanto": ("diffusers with optimum-quanto",),
}


def other_loaders(contents: Contents) -> list[Opening]:
    """Those that are for the kinds in the file. That they open it is what they say of themselves."""
    families = {layer.kind.family for layer in contents.layers.values()}
    names = [name for family, loaders in LOADERS.items() if family in families for name in loaders]
    if contents.container == "gguf" and not names:
        names = list(LOADERS["gguf"])
    return [Opening(name, "opens") for name in names]
