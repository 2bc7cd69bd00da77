"""Telling one model's weights from another's, cheaply, whatever type they are stored in.

A fingerprint is one weight value from each of up to 128 layers. The same model in FP32, BF16 or FP16
differs by rounding only, which the comparison allows; a different finetune differs by more in some of
them. A hash could not do this, since a rounding can fall on either side of any boundary.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_LAYERS = 128
# Twice the rounding of BF16, the coarsest 16-bit type, and FP16's smallest normal number.
_RELATIVE, _ABSOLUTE = 2.0**-7, 6.2e-5


@dataclass(frozen=True)
class Fingerprint:
    """Sampled weight values as text (base64 of float16), comparable up to the rounding of 16-bit types."""

    text: str

    @staticmethod
    def of(names: Sequence[str], read: Callable[[str], float]) -> Fingerprint:
        """The fingerprint of a model.

        Args:
            names: the paths of all its quantizable layers, in any order.
            read: gives the middle element of a layer's weight, flattened.
        """
        ordered = sorted(names)
        count = min(_LAYERS, len(ordered))
        chosen = [ordered[i * len(ordered) // count] for i in range(count)]
        values = np.array([read(name) for name in chosen], dtype=np.float32).clip(-65504, 65504)
        return Fingerprint(base64.b64encode(values.astype("<f2").tobytes()).decode("ascii"))

    @staticmethod
    def parse(text: str) -> Fingerprint | None:
        """A stored fingerprint; ``None`` for an empty one. Errors: ValueError when it is malformed."""
        if not text:
            return None
        fingerprint = Fingerprint(text)
        fingerprint._values()
        return fingerprint

    def matches(self, other: Fingerprint) -> bool:
        """Whether both are of the same weights, up to 16-bit rounding."""
        a, b = self._values(), other._values()
        return a.shape == b.shape and bool(np.allclose(a, b, rtol=_RELATIVE, atol=_ABSOLUTE))

    def _values(self) -> np.ndarray:
        return np.frombuffer(base64.b64decode(self.text, validate=True), dtype="<f2").astype(np.float32)
