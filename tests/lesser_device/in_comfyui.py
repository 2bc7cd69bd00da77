"""Lets ComfyUI run on the lesser device, as it runs on Apple's."""

from __future__ import annotations

import threading
from typing import Any

import comfy.model_management
import torch
from comfy.quant_ops import QuantizedTensor

from .device import LesserDevice, lacking_operations


def run_on_it() -> None:
    """From now on every thread that begins has the device, that in which nodes run among them."""
    lacking_operations.add(torch.linalg.qr)  # which rounding asks for
    management = comfy.model_management
    management.cpu_state = management.CPUState.MPS
    management.vram_state = management.VRAMState.SHARED
    torch.mps.empty_cache = lambda: None
    plain_run, dispatch = threading.Thread.run, QuantizedTensor.__torch_dispatch__.__func__

    def run(self: threading.Thread) -> None:
        with LesserDevice():
            plain_run(self)

    def dispatched(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What a quantized tensor makes of an operation; torch comes here without the mode."""
        with LesserDevice():
            return dispatch(cls, func, types, args, kwargs)

    threading.Thread.run = run
    QuantizedTensor.__torch_dispatch__ = classmethod(dispatched)
