"""What a device can do, found by trying once: its name does not tell, and versions of torch change it."""

from __future__ import annotations

from functools import cache

import torch

REFUSALS = (RuntimeError, TypeError, NotImplementedError, ValueError, AssertionError)
"""What torch raises where a device lacks a type or an operation, by device and version."""


@cache
def holds(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether tensors of a type can be sent to a device, and be converted there both ways.

    Apple's devices have neither FP8 nor float64, DirectML has no FP8, some of Intel's cards no float64.
    """
    try:
        torch.zeros(2).to(dtype).to(device).float().to(dtype)
    except REFUSALS:
        return False
    return True


@cache
def has_generator(device: torch.device) -> bool:
    """Whether a device draws random numbers from a seed of its own."""
    try:
        torch.randperm(2, device=device, generator=torch.Generator(device))
    except REFUSALS:
        return False
    return True


def sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """A tensor on a device: where that lacks its type, FP8 in FP16, which holds the same numbers, float64 in float32.

    Integers, and float types of other sizes, are on every device.
    """
    device = torch.device(device)
    if tensor.is_floating_point() and not holds(tensor.dtype, device):
        tensor = tensor.to(torch.float16 if tensor.element_size() == 1 else torch.float32)
    return tensor.to(device)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float64: on its device, or on the CPU where its device has no float64."""
    return tensor.double() if holds(torch.float64, tensor.device) else tensor.cpu().double()
