"""V2, high-performance scaled: W = W8 * S, with the inverse scale S in ``L.scale``, F32 [1], or [C_out] on request."""

from dataclasses import replace

from .base import Form, Format
from .stored_layer import FP8_DTYPES, LAYER_DIMENSIONS

_FORM = Form("v2", scaling="tensor", side_tensors=lambda layer, scale, _shape: {f"{layer}.scale": scale})

V2 = Format(
    "v2",
    form=_FORM,
    channel_form=replace(_FORM, scaling="channel"),
    dimensions=LAYER_DIMENSIONS,
    takes_channel_scales=True,
    recognizes=lambda layer: layer.dtype in FP8_DTYPES and layer.suffix in (".scale", ".weight.scale"),
    hint="Open with HSWQ Loader (ComfyUI-HSWQ).",
    how_to_load="Open it with *HSWQ Loader* of ComfyUI-HSWQ: it has a scale beside every layer that other loaders do "
    "not know.",
    holds_text_encoders=True,
)
