"""V1, standard compatible: plain FP8 weights and nothing else, so that any FP8 loader opens it."""

from .base import Form, Format
from .stored_layer import FP8_DTYPES, LAYER_DIMENSIONS

V1 = Format(
    "v1",
    form=Form("v1", scaling="none", side_tensors=lambda _layer, _scale, _shape: {}),
    dimensions=LAYER_DIMENSIONS,
    takes_channel_scales=False,
    recognizes=lambda layer: layer.dtype in FP8_DTYPES and not layer.suffix,
    hint="Opens in any FP8 loader; HSWQ Loader keeps the layers that are kept.",
    how_to_load="Any loader of FP8 models opens it: *Load Checkpoint* in ComfyUI, Forge and others. *HSWQ Loader* "
    "keeps the layers that were kept in full precision as they are.",
    holds_text_encoders=True,
    is_target=False,
)
