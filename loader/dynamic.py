"""Quantized layers with dynamic VRAM: newer versions of ComfyUI leave weights in the file and page them in.

There a page holds what a layer's codes and scales are, and a LoRA is added to the weight in each call. ComfyUI itself
would write the sum back into the page in the type that was there, which for codes is 8 bits or fewer; so each patch is
moved to where it is a function of the weight that was paged in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import comfy.utils
import torch

from .ops import keep_quantized_tensors
from .patching import AddedPatches, QuantizedWeights
from .quantized_tensor import dequantized, is_quantized

_PARTS = ("weight", "bias")
SMALL = 64 << 10
"""Elements: of 2 bits each, in the 16 KiB up to which ComfyUI holds a layer whole. Larger ones it patches itself."""


class _Original(NamedTuple):
    """In the form of ComfyUI's backups."""

    weight: torch.Tensor
    inplace_update: bool = False


class DynamicPatching(QuantizedWeights):
    """What is put before ComfyUI's class that pages weights in."""

    load_device: torch.device

    @torch.inference_mode()
    def load(self, *args: Any, **named: Any) -> None:
        above: Any = super()
        for module in self.model.modules():
            for name in _functions(module):
                # A layer that is held whole this time would keep those of the last.
                setattr(module, name, [f for f in getattr(module, name) if not isinstance(f, AddedPatches)])
        with keep_quantized_tensors():  # a layer's size is that of its codes, within a run and outside
            above.load(*args, **named)
        for key in self.patches:
            self._add_in_calls(key)

    @torch.inference_mode()
    def partially_unload(self, *args: Any, **named: Any) -> Any:
        above: Any = super()
        return above.partially_unload(*args, **named)

    def patch_weight_to_device(self, key: str, device_to: Any = None, *args: Any, **named: Any) -> Any:
        """Small layers are held whole: codes as they are, and what has patches in float32."""
        above: Any = super()
        weight = comfy.utils.get_attr(self.model, key)
        patched = key in self.patches
        ours = weight.numel() <= SMALL if patched else is_quantized(weight)
        if not (named.get("force_cast") and ours):
            return above.patch_weight_to_device(key, device_to, *args, **named)
        self.backup.setdefault(key, _Original(weight))
        held = weight.to(device_to)
        if patched:
            whole = dequantized(held, torch.float32) if is_quantized(held) else held.float()
            held = AddedPatches(key, self.patches[key], 0, held=torch.float32)(whole)
        else:
            # ComfyUI counts elements in the type that they stand for.
            self.model.model_loaded_weight_memory += held.nbytes - held.numel() * held.element_size()
        comfy.utils.set_attr_param(self.model, key, held)
        return None

    def _add_in_calls(self, key: str) -> None:
        """Turn the patch that ComfyUI would write into the page into a function of the weight."""
        layer, _, part = key.rpartition(".")
        module = comfy.utils.get_attr(self.model, layer) if part in _PARTS else None
        if getattr(module, f"{part}_lowvram_function", None) is None or not hasattr(module, "_v"):
            return
        weight = getattr(module, part)
        added = AddedPatches(key, self.patches[key], weight.numel() // 2, held=torch.float32)
        added.move_to(self.load_device)
        setattr(module, f"{part}_lowvram_function", None)
        setattr(module, f"{part}_function", [added, *getattr(module, f"{part}_function")])


def _functions(module: torch.nn.Module) -> list[str]:
    """The lists of functions that a layer of ComfyUI's has of its own."""
    return [name for part in _PARTS if (name := f"{part}_function") in vars(module)]
