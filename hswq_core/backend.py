"""Triton or torch: chosen here and nowhere else.

Whatever has a Triton kernel also has the same computation in torch's own operations. An ``Operation`` names the
kernel's module and a self-test against torch. The kernel is used on a device only after the self-test has passed
there, since compilers, drivers and cards are many and wrong results would show in images alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

from .log import get_logger

logger = get_logger(__name__)
COMPUTED_IN = (torch.float16, torch.bfloat16, torch.float32)
"""The types that models compute in."""


@dataclass(frozen=True)
class Operation:
    """A computation that a kernel does in one launch and torch in many.

    Attributes:
        name: as the log has it.
        module: of the kernel, in ``hswq_core.kernels``.
        agrees: the self-test: whether the module computes on a device what torch does. It makes the launches that
            sampling makes: in every type, from addresses that are multiples of 16 and others, and each kind more than
            once, since only the first goes through Triton's own launcher.
    """

    name: str
    module: str
    agrees: Callable[[ModuleType, torch.device], bool]

    def kernel(self, device: torch.device) -> ModuleType | None:
        """The kernel's module if it can be launched for tensors on this device now, ``None`` for torch."""
        if device.type != "cuda" or torch.compiler.is_compiling() or device.index != torch.cuda.current_device():
            return None
        return _trusted(self, device)


@cache
def _trusted(operation: Operation, device: torch.device) -> ModuleType | None:
    """Runs the self-test, once for each operation and device."""
    try:
        module = importlib.import_module(f".kernels.{operation.module}", __package__)
        if operation.agrees(module, device):
            return module
        logger.warning("HSWQ: %s without Triton: its results are wrong on this device", operation.name)
    except Exception as error:  # Triton missing (Windows), no C compiler, or whatever a compiler can raise
        logger.info("HSWQ: %s without Triton (%s)", operation.name, error)
    return None
