"""Whether Triton works here, and launching its kernels with little of the host's time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import cache, wraps
from typing import Any

import torch

logger = logging.getLogger(__name__)


def triton_works(device: torch.device) -> bool:
    """Whether kernels can be launched for tensors on this device, now."""
    return (
        device.type == "cuda"
        and not torch.compiler.is_compiling()
        and device.index == torch.cuda.current_device()
        and _compiles(device.index)
    )


def tried_once(purpose: str) -> Callable[[Callable[[torch.device], bool]], Callable[[torch.device], bool]]:
    """Makes of a kernel's comparison with torch one that is made once a device; the kernel is used only if it holds.

    Compilers, drivers and cards are many, and results that are wrong would only show in pictures.
    """

    def decorate(agrees: Callable[[torch.device], bool]) -> Callable[[torch.device], bool]:
        @cache
        @wraps(agrees)
        def trusted(device: torch.device) -> bool:
            try:
                if agrees(device):
                    return True
                reason = "its results are wrong here"
            except Exception as error:  # whatever a compiler can throw
                reason = str(error)
            logger.warning("HSWQ: %s without Triton (%s)", purpose, reason)
            return False

        return trusted

    return decorate


@cache
def _compiles(index: int) -> bool:
    """Tries it: Triton may be missing (Windows), or without the C compiler that it builds its launchers with."""
    try:
        from .fp8 import dequantize

        codes = torch.arange(126, dtype=torch.uint8, device=f"cuda:{index}").view(torch.float8_e4m3fn)
        scale = torch.tensor([0.37], device=codes.device)
        return torch.equal(dequantize(codes, scale, torch.float16), (codes.float() * scale).half())
    except Exception as error:  # whatever a compiler can throw
        logger.info("HSWQ: without Triton's kernels, by torch's own operations (%s)", error)
        return False


class Kernel:
    """A Triton function without ``constexpr`` arguments, launched past the checks that Triton makes at every launch.

    They take as long as the launch itself, and a diffusion model has a thousand launches a step.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._compiled: dict[Hashable, Any] = {}

    def launch(self, programs: int, kind: Hashable, *arguments: Any) -> None:
        """Run ``programs`` of them.

        Args:
            kind: what Triton would look at: types of the arguments, and whether their addresses are multiples of
                16; equal for equal ones.
        """
        compiled = self._compiled.get(kind)
        if compiled is None:
            self._compiled[kind] = self._function[(programs,)](*arguments)
        else:
            compiled[(programs, 1, 1)](*arguments)


def fits_dequantize(codes: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether ``fp8.dequantize`` is for this weight: e4m3 (files of other tools have e5m2, too) with one scale."""
    one_scale = scale.numel() == 1 and scale.dtype == torch.float32 and scale.device == codes.device
    return codes.dtype == torch.float8_e4m3fn and one_scale and codes.is_contiguous()


def is_aligned(*tensors: torch.Tensor) -> bool:
    """Whether all of them begin at multiples of 16 bytes, as kernels are compiled for."""
    return not any(tensor.data_ptr() % 16 for tensor in tensors)
