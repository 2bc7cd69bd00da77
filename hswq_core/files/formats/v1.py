"""V1, standard compatible: plain FP8 weights and nothing else, so that any FP8 loader opens it."""

from ..layers import LAYER_DIMENSIONS
from .base import Format

V1 = Format(
    "v1", scaling="none", dimensions=LAYER_DIMENSIONS, per_channel=False, side_tensors=lambda _layer, _scale: {}
)
