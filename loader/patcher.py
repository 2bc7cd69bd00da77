"""The class of a MODEL's patcher: ComfyUI's own, that knows of quantized weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import comfy.model_patcher

from .dynamic import DynamicPatching
from .patching import QuantizedPatching, QuantizedWeights

_DYNAMIC: type[Any] | None = getattr(comfy.model_patcher, "ModelPatcherDynamic", None)


@cache
def with_quantized_patching(patcher: type[Any]) -> type[Any]:
    """ComfyUI's class of model patchers, or another, that knows what can be done to quantized weights."""
    pages = _DYNAMIC is not None and issubclass(patcher, _DYNAMIC)
    kind = DynamicPatching if pages else QuantizedPatching
    return type(f"Quantized{patcher.__name__}", (_Cloning, kind, patcher), {})


class _Cloning:
    """A clone is of its parent's class, but for one without dynamic VRAM: that is of ComfyUI's plain class."""

    def clone(self, *args: Any, **named: Any) -> Any:
        above: Any = super()
        made = above.clone(*args, **named)
        if not isinstance(made, QuantizedWeights):
            made.__class__ = with_quantized_patching(type(made))
        return made
