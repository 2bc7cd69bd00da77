"""V1, standard compatible: plain FP8 weights and nothing else, so that any FP8 loader opens it."""

from .base import Format

V1 = Format(
    "v1", scaling="none", dimensions=frozenset({2, 4}), per_channel=False, side_tensors=lambda _layer, _scale: {}
)
