"""Noise, told by how large weights are: a layer's outputs are as large as its inputs only if its weights' root mean
square is about one over the square root of the inputs that are added up (He et al. 2015, arXiv:1502.01852).

Codes that are taken for weights are a thousand times as large. Trained layers stay within a factor of a hundred, and
those of them that do not are tables that are looked up, or have weights of a few units at the most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch

from ...errors import CheckpointError
from ...files.dtypes import TORCH_DTYPES
from ...files.layers import WEIGHT
from ..contents import Contents
from ..layer import QuantizedLayer
from .finding import AGAIN, Finding, together

_SAMPLE = 64
_POSITIONS = [(place + 0.5) / _SAMPLE for place in range(_SAMPLE)]
_MOST = 100.0
"""Of root mean square times the square root of the inputs."""
_MOST_OF_WEIGHTS = 8.0
"""Of the root mean square itself."""
_LEAST = 1e-3
_LEAST_OF_MIDDLE = 1e-3
"""Of what the middle one of the quantized layers has."""
_OF_LARGEST = 0.35
"""Root mean square of codes over the largest one, where scales come from the largest weight of a group."""
_FEW = 8


@dataclass(frozen=True)
class _Spread:
    """Attributes: codes: their root mean square. scale: what they are multiplied with. gain: root of the inputs."""

    codes: float
    scale: float
    gain: float
    finite: bool = True

    @property
    def weights(self) -> float:
        """Root mean square times the square root of the inputs."""
        return self.codes * self.scale * self.gain

    @property
    def is_large(self) -> bool:
        return self.weights > _MOST and self.codes * self.scale > _MOST_OF_WEIGHTS

    @property
    def is_inverted(self) -> bool:
        """Whether it would be as other layers are with one over its scale."""
        return _LEAST < self.codes / self.scale * self.gain < _MOST


def check_spread(contents: Contents) -> Iterator[Finding]:
    """Reads a sample of every layer that is stored in numbers."""
    if contents.source is None:
        return
    spreads = {
        name: spread for name, layer in contents.layers.items() if (spread := _of_codes(contents, layer)) is not None
    }
    yield from _of_quantized(contents, spreads)
    yield from _of_kept(contents)


def _of_quantized(contents: Contents, spreads: dict[str, _Spread]) -> Iterator[Finding]:
    yield from together(
        "not-finite", "weights hold NaN or infinity", AGAIN, [n for n, spread in spreads.items() if not spread.finite]
    )
    spreads = {name: spread for name, spread in spreads.items() if spread.finite and spread.codes > 0}
    large = {name: spread for name, spread in spreads.items() if spread.is_large}
    stripped = [name for name in large if contents.layers[name].scale is None]
    yield from together(
        "scale-stripped", "codes fill the range of FP8 and have no scale: it was removed by a tool that does not know "
        "scales, and images will be noise", AGAIN, stripped,
    )  # fmt: skip
    inverted = [name for name, each in large.items() if name not in stripped and each.is_inverted]
    yield from together(
        "scale-inverted", "scales are one over what they should be, and images will be noise", AGAIN, inverted
    )
    yield from together(
        "too-large", "weights are far larger than any model's, and images will be noise", AGAIN,
        [name for name in large if name not in (*stripped, *inverted)],
    )  # fmt: skip
    rest = {name: each.weights for name, each in spreads.items() if name not in large}
    middle = median(rest.values()) if rest else 0.0
    yield from together(
        "too-small", "weights are far smaller than those of the other layers", AGAIN,
        [name for name, weights in rest.items() if 0 < weights < _LEAST_OF_MIDDLE * middle],
    )  # fmt: skip


def _of_kept(contents: Contents) -> Iterator[Finding]:
    large, rounded, broken = [], [], []
    for name, info in contents.kept.items():
        if contents.part_of(name) is None or info.dtype not in TORCH_DTYPES or not info.numel:
            continue
        values = _sampled(contents, name + WEIGHT)
        if not bool(values.isfinite().all()):
            broken.append(name)
        elif _Spread(float(values.square().mean().sqrt()), 1.0, math.sqrt(info.numel / info.shape[0])).is_large:
            large.append(name)
        elif _was_fp8(values):
            rounded.append(name)
    yield from together("not-finite", "weights hold NaN or infinity", AGAIN, broken)
    yield from together(
        "codes-for-weights", "weights in 16 bits or more are as large as codes: they were expanded without their "
        "scales, and images will be noise", AGAIN, large,
    )  # fmt: skip
    yield from together(
        "rounded-before", "layers in 16 bits or more hold values of FP8 alone: they were cast to FP8 and back, so that "
        "they take twice the bytes for nothing", "Quantize the original, which has all digits", rounded, is_error=False,
    )  # fmt: skip


def _sampled(contents: Contents, key: str) -> torch.Tensor:
    assert contents.source is not None
    return torch.tensor(contents.source.elements(key, _POSITIONS))


def _of_codes(contents: Contents, layer: QuantizedLayer) -> _Spread | None:
    """``None`` for what cannot be told."""
    try:
        scale = layer.scale() if layer.scale is not None else torch.ones(())
    except CheckpointError:
        return None
    unit = float(scale.square().mean().sqrt()) if scale.numel() else 0.0
    gain = math.sqrt(layer.numel / layer.shape[0]) if layer.numel else 0.0
    if not unit or not gain:
        return None
    if layer.plain_codes and contents.tensors[layer.codes].dtype in TORCH_DTYPES:
        codes = _sampled(contents, layer.codes)
        return _Spread(float(codes.square().mean().sqrt()), unit, gain, bool(codes.isfinite().all()))
    if layer.scale is None or not layer.largest_code:
        return None
    return _Spread(_OF_LARGEST * layer.largest_code, unit, gain)


def _was_fp8(values: torch.Tensor) -> bool:
    """Whether all are points of E4M3, which of random ones one in a hundred is. Zeros tell nothing."""
    fits = values.abs() <= torch.finfo(torch.float8_e4m3fn).max
    same = bool(fits.all()) and torch.equal(values.to(torch.float8_e4m3fn).float(), values)
    return same and len(values[values != 0].abs().unique()) >= _FEW
