"""Lets ComfyUI run on the lesser device, as it runs on Apple's."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy.quant_ops import QuantizedTensor

from .device import DEVICE, HOST, LesserDevice, everywhere, lacking_operations

_FOREVER = everywhere()


def run_on_it() -> None:
    """From now on every thread has the device, that in which nodes run among them."""
    management = comfy.model_management
    management.cpu_state = management.CPUState.MPS
    management.vram_state = management.VRAMState.SHARED
    torch.mps.empty_cache = lambda: None
    lacking_operations.add(torch.linalg.qr)  # rounding asks for it
    dispatch, make = QuantizedTensor.__torch_dispatch__.__func__, torch.Tensor._make_wrapper_subclass

    def made_on_host(cls: Any, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        return make(cls, *args, **(kwargs | {"device": HOST} if device == DEVICE else kwargs))

    def dispatched(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What a quantized tensor makes of an operation: torch calls it without the mode."""
        with LesserDevice():
            return dispatch(cls, func, types, args, kwargs)

    QuantizedTensor.__torch_dispatch__ = classmethod(dispatched)
    QuantizedTensor.device = property(lambda tensor: tensor._qdata.device)
    torch.Tensor._make_wrapper_subclass = staticmethod(made_on_host)
    _FOREVER.__enter__()
