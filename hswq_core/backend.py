"""Which kernels compute: chosen here and nowhere else.

There are three sets. ``torch``, torch's own operations, does everything and everywhere. ``triton`` and ``kitchen``,
comfy-kitchen's kernels for CUDA and HIP, have a kernel for some ``Operation``s, each of which names its module and a
self-test against torch; a kernel is used on a device only after the self-test has passed there, since compilers,
drivers and cards are many and wrong results would show in images alone.

``HSWQ_KERNELS`` forces one of them and switches the others off. A set that is forced and cannot be used is an error.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

from .errors import KernelError
from .log import get_logger
from .words import listed

logger = get_logger(__name__)
VARIABLE = "HSWQ_KERNELS"
COMPUTED_IN = (torch.float16, torch.bfloat16, torch.float32)
"""The types that models compute in."""


@dataclass(frozen=True)
class KernelSet:
    """Kernels that come and go together.

    Attributes:
        name: as ``HSWQ_KERNELS`` has it.
        product: what people call it.
        lacks: what is missing for a device (a package, or that it is of another type); ``None`` if nothing is.
    """

    name: str
    product: str
    lacks: Callable[[torch.device], str | None]

    def why_not(self, device: torch.device) -> str | None:
        """Why the set is not used on a device: switched off, what it lacks, or failed self-tests. ``None`` if it is."""
        if forced_set() not in (None, self.name):
            return f"switched off by {VARIABLE}={forced_set()}"
        return self.lacks(device) or _failed_everywhere(self, device)

    def available(self, device: torch.device) -> bool:
        """Whether the set can be used on a device."""
        return self.why_not(device) is None


def _triton_lacks(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"its kernels are for CUDA devices, this is {device.type}"
    return None if _installed("triton") else "Triton is not installed"


def _kitchen_lacks(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"its kernels are for CUDA and HIP devices, this is {device.type}"
    return _kitchen_problem()


@cache
def _kitchen_problem() -> str | None:
    if not _installed("comfy_kitchen"):
        return "comfy-kitchen is not installed"
    found = importlib.import_module("comfy_kitchen").list_backends()
    compiled = any(found.get(name, {}).get("available") for name in ("cuda", "hip", "triton"))
    return None if compiled else "comfy-kitchen has no kernels for this card"


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


KITCHEN = KernelSet("kitchen", "comfy-kitchen", _kitchen_lacks)
TRITON = KernelSet("triton", "Triton", _triton_lacks)
TORCH = KernelSet("torch", "torch", lambda _device: None)
SETS = (KITCHEN, TRITON, TORCH)
"""In the order in which they are listed."""


@dataclass(frozen=True)
class KernelStatus:
    """What ``list_kernels`` says of one set.

    Attributes:
        in_use: whether it computes on the device what it has a kernel for.
        reason: why it is not in use, or for which operations it is not; ``None`` if there is nothing to say.
    """

    name: str
    in_use: bool
    reason: str | None

    def __str__(self) -> str:
        state = self.name if self.in_use else f"not {self.name}"
        return f"{state} ({self.reason})" if self.reason else state


@dataclass(frozen=True)
class Operation:
    """A computation that a kernel does in one launch and torch in many.

    Attributes:
        name: as the log has it.
        module: of the kernel, in ``hswq_core.kernels``.
        agrees: the self-test: whether the module computes on a device what torch does. It makes the launches that
            sampling makes: in every type, from addresses that are multiples of 16 and others, and each kind more than
            once, since only the first goes through Triton's own launcher.
        kernels: the set that the kernel is of.
    """

    name: str
    module: str
    agrees: Callable[[ModuleType, torch.device], bool]
    kernels: KernelSet = TRITON

    def kernel(self, device: torch.device) -> ModuleType | None:
        """The kernel's module if it can be launched for tensors on this device now, ``None`` for torch.

        Under ``torch.compile`` it is always torch, whose operations the compiler joins.

        Errors: KernelError if ``HSWQ_KERNELS`` forces a set that cannot be used here, or is not the name of one.
        """
        if torch.compiler.is_compiling():
            return None
        if device.type != "cuda" or device.index == (current := torch.cuda.current_device()):
            return _chosen(self, device)
        if device.index is None:
            return _chosen(self, torch.device("cuda", current))
        # Kernels are launched on the current device: not even a self-test can be made on another.
        if forced_set() == self.kernels.name:
            raise _cannot_be_forced(self.kernels, device, f"cuda:{current} is the current device")
        return None


def register(operation: Operation) -> Operation:
    """Let ``list_kernels`` know an operation."""
    _operations.append(operation)
    return operation


def list_kernels(device: torch.device | str = "cpu") -> list[KernelStatus]:
    """Every set, and whether it is in use on a device or why not. Makes the self-tests that were not made yet.

    Args:
        device: ``cuda`` is the first.

    Errors: KernelError if ``HSWQ_KERNELS`` is not the name of a set.
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", 0)
    with torch.cuda.device(device) if device.type == "cuda" and torch.cuda.is_available() else nullcontext():
        for operation in _operations:
            if operation.kernels.why_not(device) is None:
                _why_not_trusted(operation, device)
    return _statuses(device)


@cache
def forced_set() -> str | None:
    """What ``HSWQ_KERNELS`` names, read once; ``None`` if the choice is ours.

    Errors: KernelError for a name that no set has.
    """
    name, names = os.environ.get(VARIABLE, "").strip().lower(), [kernels.name for kernels in SETS]
    if name and name not in names:
        raise KernelError(f"{VARIABLE}={name} names no kernels", remedy=f"Set it to {listed(names, 'or')}, or unset it")
    return name or None


_operations: list[Operation] = []
_tested: dict[torch.device, dict[str, str | None]] = {}
"""By device and operation, why its kernel is not trusted; ``None`` where it is."""


@cache
def _chosen(operation: Operation, device: torch.device) -> ModuleType | None:
    """Chooses once for each operation and device, and says once for each device what is in use."""
    forced, kernels = next((each for each in SETS if each.name == forced_set()), None), operation.kernels
    if forced is not None and (missing := forced.lacks(device)):
        raise _cannot_be_forced(forced, device, missing)
    lacks = kernels.lacks(device) if forced in (None, kernels) else "switched off"
    failed = None if lacks else _why_not_trusted(operation, device)
    if forced is kernels and failed:
        raise _cannot_be_forced(kernels, device, f"{operation.name}: {failed}")
    _say_once(device)
    if failed:
        logger.warning("HSWQ: %s without %s on %s: %s", operation.name, kernels.product, device, failed)
    return None if lacks or failed else _module_of(operation)


def _why_not_trusted(operation: Operation, device: torch.device) -> str | None:
    """Runs the self-test if it was not run on this device."""
    known = _tested.setdefault(device, {})
    if operation.name not in known:
        try:
            agreed = operation.agrees(_module_of(operation), device)
            known[operation.name] = None if agreed else "its results are wrong on this device"
        except Exception as error:  # no C compiler, or whatever a compiler can raise
            known[operation.name] = f"its self-test failed with {type(error).__name__}: {error}"
    return known[operation.name]


def _module_of(operation: Operation) -> ModuleType:
    return importlib.import_module(f".kernels.{operation.module}", __package__)


def _failed_everywhere(kernels: KernelSet, device: torch.device) -> str | None:
    """The first reason, if all self-tests that were made on a device have failed."""
    reasons = list(_results(kernels, device).values())
    return reasons[0] if reasons and all(reasons) else None


def _results(kernels: KernelSet, device: torch.device) -> dict[str, str | None]:
    """What came of the self-tests that were made on a device, by operation."""
    found = _tested.get(device, {})
    return {each.name: found[each.name] for each in _operations if each.kernels is kernels and each.name in found}


@cache
def _say_once(device: torch.device) -> None:
    in_use_first = sorted(_statuses(device), key=lambda status: not status.in_use)
    logger.info("HSWQ: kernels on %s: %s", device, "; ".join(map(str, in_use_first)))


def _statuses(device: torch.device) -> list[KernelStatus]:
    others = [kernels.name for kernels in SETS if kernels is not TORCH and kernels.available(device)]
    return [_status(kernels, others, device) for kernels in SETS]


def _status(kernels: KernelSet, others: list[str], device: torch.device) -> KernelStatus:
    """Of one set, where ``others`` are those beside torch that are in use."""
    if kernels is TORCH and others:
        return KernelStatus(kernels.name, True, f"for what {' and '.join(others)} cannot")
    if why := kernels.why_not(device):
        return KernelStatus(kernels.name, False, why)
    failed = [name for name, problem in _results(kernels, device).items() if problem]
    return KernelStatus(kernels.name, True, f"not for {', '.join(failed)}" if failed else None)


def _cannot_be_forced(kernels: KernelSet, device: torch.device, why_not: str | None) -> KernelError:
    others = [other.name for other in SETS if other is not kernels and not other.lacks(device)]
    return KernelError(
        f"{VARIABLE}={kernels.name} cannot be used on {device}: {why_not}",
        remedy=f"Set it to {' or '.join(others)}, or unset it",
    )
