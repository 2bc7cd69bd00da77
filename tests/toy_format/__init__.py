"""A format that the pack does not have, as someone would add one, and the node pack that adds it to a server's.

``toy`` stores a layer as integers, with one scale for each output channel in ``L.scale``.
"""

from __future__ import annotations

import sys
from typing import Any


def toy(formats: Any, int8: Any) -> Any:
    """The format, made of a pack's ``formats`` and its integer grid."""
    form = formats.Form(
        "int8", scaling="channel", side_tensors=lambda layer, scale, _shape: {f"{layer}.scale": scale}, grid=int8
    )
    return formats.Format(
        "toy",
        form=form,
        dimensions=frozenset({2, 4}),
        takes_channel_scales=True,
        recognizes=lambda layer: layer.dtype == int8.file_dtype and layer.suffix == ".scale",
        hint="Play with it.",
        how_to_load="It opens in *HSWQ Loader*.",
        holds_text_encoders=True,
    )


class RegisterToyFormat:
    """Adds the format to the pack that the server has loaded."""

    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "register", "tests", True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802, ComfyUI's name
        return {"required": {}}

    def register(self) -> tuple[()]:
        pack = next(name for name in sys.modules if name.endswith(".hswq_core.formats")).removesuffix(".formats")
        formats, grids = sys.modules[f"{pack}.formats"], sys.modules[f"{pack}.grids"]
        if "toy" not in formats.FORMATS:
            formats.register(toy(formats, grids.INT8))
        return ()


NODE_CLASS_MAPPINGS = {"RegisterToyFormat": RegisterToyFormat}
