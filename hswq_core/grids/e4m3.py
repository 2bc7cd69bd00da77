"""FP8 as the hardware has it: 4 bits of exponent, 3 of mantissa, no infinity (``torch.float8_e4m3fn``).

Source: Micikevicius et al., FP8 Formats for Deep Learning, 2022.
"""

import torch

from .grid import Grid

E4M3 = Grid("FP8", torch.float8_e4m3fn, "F8_E4M3", largest=448.0, least_normal=2.0**-6, mantissa_bits=3)
