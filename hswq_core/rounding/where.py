"""Where weights are rounded: on a device that has all the operations of it, or on the CPU."""

from __future__ import annotations

from functools import cache

import torch

from ..devices import REFUSALS
from ..log import get_logger
from .weight import quantize_weight

logger = get_logger(__name__)


@cache
def rounding_device(device: torch.device) -> torch.device:
    """The device, or the CPU where the device lacks an operation that rounding needs: found by rounding once."""
    # More rows than columns take one more operation than fewer do.
    weight, rows = torch.linspace(-1, 1, 32).view(4, 8), torch.eye(8).repeat(2, 1)
    try:
        quantize_weight(
            weight.to(device), scaling="channel", importance=torch.ones(8), rows=rows, second_moment=torch.ones(8)
        )
    except REFUSALS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.info("HSWQ: weights are rounded on the CPU, as %s cannot (%s)", device, reason)
        return torch.device("cpu")
    return device
