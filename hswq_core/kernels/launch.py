"""Launching Triton's kernels with little of the host's time."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch


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


def is_aligned(*tensors: torch.Tensor) -> bool:
    """Whether all of them begin at multiples of 16 bytes, as kernels are compiled for."""
    return not any(tensor.data_ptr() % 16 for tensor in tensors)
