"""NVFP4's numbers: 2 bits of exponent, 1 of mantissa: 0, 0.5, 1, 1.5, 2, 3, 4, 6, and their negatives.

Torch has no type for them. All of them are numbers of FP8, and that is what the codes are until they are packed.
Source: Open Compute Project, OCP Microscaling Formats (MX) Specification 1.0, 2023.
"""

import torch

from .grid import Grid

E2M1 = Grid("NVFP4", torch.float8_e4m3fn, "U8", largest=6.0, least_normal=1.0, mantissa_bits=1)
