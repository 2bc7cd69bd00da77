"""Symmetric 8-bit integers, -127 to 127: with a scale for each output channel, finer than FP8 nearly everywhere."""

import torch

from .grid import Grid

INT8 = Grid("INT8", torch.int8, "I8", largest=127.0, least_normal=128.0, mantissa_bits=7)
