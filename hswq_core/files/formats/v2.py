"""V2, high-performance scaled: W = W8 * S, with the inverse scale S in ``L.scale``, F32 [1], or [C_out] on request."""

from ..layers import LAYER_DIMENSIONS
from .base import Format

V2 = Format(
    "v2",
    scaling="tensor",
    dimensions=LAYER_DIMENSIONS,
    per_channel=True,
    side_tensors=lambda layer, scale: {f"{layer}.scale": scale},
)
