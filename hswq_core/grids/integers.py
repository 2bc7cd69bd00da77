"""Symmetric integers: with a scale for each output channel or group, finer than FP8 of as many bits nearly everywhere.

The largest magnitude is 2^(bits - 1) - 1, so that the grid is symmetric.
"""

import torch

from .grid import Grid


def _integers(bits: int) -> Grid:
    half = 2.0 ** (bits - 1)
    return Grid(
        f"INT{bits}", torch.int8, "I8" if bits == 8 else "U8", largest=half - 1, least_normal=half,
        mantissa_bits=bits - 1,
    )  # fmt: skip


INT8, INT6, INT5, INT4, INT3, INT2 = (_integers(bits) for bits in (8, 6, 5, 4, 3, 2))
