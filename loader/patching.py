"""LoRAs on a card with little memory: added when a layer runs, so that its weight stays 8 bits.

ComfyUI adds a patch to the weight where it is, and an 8-bit weight becomes FP16 by that (see ``ops.py``): twice its
size, which the memory manager does not know of when it places the model. Where the model would not fit so, the patches
of quantized layers are added to the dequantized weight in each call instead, as ComfyUI itself does in layers that it
keeps in main memory. Elsewhere they are added once, which is faster.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import comfy.lora
import comfy.utils
import torch
from comfy.model_patcher import LowVramPatch

from ..hswq_core.calibration.arguments import leaves, rebuilt
from .compat import is_quantized

_WEIGHT = ".weight"


class AddedPatches:
    """What a MODEL's patches make of a layer's weight, computed in float32 and rounded once.

    Args:
        key: of the weight, in the whole model.
        patches: ComfyUI's, those of this key.
        most: bytes that may be kept near the weight for it.
    """

    def __init__(self, key: str, patches: list[Any], most: int) -> None:
        self._key, self._patches, self._near = key, patches, patches
        self._nbytes = sum(tensor.nbytes for tensor in _tensors_of(patches))
        self._fits = self._nbytes <= most

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        patched = comfy.lora.calculate_weight(self._near, weight.float(), self._key, intermediate_dtype=torch.float32)
        return patched.to(weight.dtype)

    def move_to(self, device: torch.device) -> int:
        """Keep what is added on a device, so that it does not travel in each call. Returns: its bytes there.

        A LoRA is small beside the weight; what is as large as that, as in a merge of two models, stays where it is.
        """
        near = self._fits and device.type != "cpu"
        self._near = _on_device(self._patches, device) if near else self._patches
        return self._nbytes if near else 0


@cache
def lean(patcher: type[Any]) -> type[Any]:
    """ComfyUI's class of model patchers, or another, that leaves 8-bit weights as they are where memory is short."""
    return type("LeanPatcher", (_Lean, patcher), {})


class _Lean:
    """What is put before ComfyUI's class."""

    _in_place = True
    model: Any
    patches: dict[str, list[Any]]

    def load(self, device_to: Any = None, lowvram_model_memory: float = 0, *args: Any, **named: Any) -> None:
        above: Any = super()
        forced = bool(named.get("force_patch_weights", args[0] if args else False))
        grown = sum(weight.numel() for _, weight in self._patched_and_quantized())
        short = 0 < lowvram_model_memory < self.model_size() + grown  # type: ignore[attr-defined]
        self._in_place = forced or not short
        try:
            above.load(device_to, lowvram_model_memory, *args, **named)
        finally:
            self._in_place = True
        if not forced:
            self._add_in_calls(device_to)

    def patch_weight_to_device(self, key: str, *args: Any, **named: Any) -> Any:
        above: Any = super()
        if not self._in_place and key in self.patches and self._quantized(key) is not None:
            return None
        return above.patch_weight_to_device(key, *args, **named)

    def partially_unload(self, *args: Any, **named: Any) -> Any:
        above: Any = super()
        freed = above.partially_unload(*args, **named)
        for module in self.model.modules():
            functions = getattr(module, "weight_function", [])
            if any(isinstance(f, LowVramPatch) for f in functions):  # ComfyUI's own, which does the same
                module.weight_function = [f for f in functions if not isinstance(f, AddedPatches)]
        return freed

    def _patched_and_quantized(self) -> Iterator[tuple[str, torch.Tensor]]:
        for key in self.patches:
            if (weight := self._quantized(key)) is not None:
                yield key, weight

    def _quantized(self, key: str) -> torch.Tensor | None:
        """The weight of this key, if it is one in 8 bits."""
        weight = comfy.utils.get_attr(self.model, key) if key.endswith(_WEIGHT) else None
        return weight if is_quantized(weight) else None

    def _add_in_calls(self, device: Any) -> None:
        for key, weight in self._patched_and_quantized():
            module = comfy.utils.get_attr(self.model, key.removesuffix(_WEIGHT))
            if any(isinstance(f, (LowVramPatch, AddedPatches)) for f in module.weight_function):
                continue
            added = AddedPatches(key, self.patches[key], weight.numel() // 2)
            module.weight_function = [added, *module.weight_function]
            if device is not None:
                added.move_to(torch.device(device))
            # ComfyUI takes functions away from models of which it believes that they have some.
            self.model.model_lowvram = True


def _on_device(value: Any, device: torch.device) -> Any:
    """ComfyUI's patches with all tensors on a device, those of adapters included."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if hasattr(value, "weights"):
        moved = copy.copy(value)
        moved.weights = _on_device(value.weights, device)
        return moved
    return rebuilt(value, lambda each: _on_device(each, device))


def _tensors_of(value: Any) -> Iterator[torch.Tensor]:
    for leaf in leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif hasattr(leaf, "weights"):
            yield from _tensors_of(leaf.weights)
