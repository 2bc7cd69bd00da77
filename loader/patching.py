"""Patches of quantized layers: how ComfyUI's model patcher loads, patches and unloads them.

ComfyUI adds a LoRA to the weight where it is, and an 8-bit weight becomes FP16 by that (see ``ops.py``): twice its
size, which the memory manager does not know of when it places the model. Where the model would not fit so, the patches
of quantized layers are added to the dequantized weight in each call instead, as ComfyUI itself does in layers that it
keeps in main memory. Elsewhere they are added once, which is faster. The numbers are the same.

A LoRA that belongs to some prompts (*Create Hook LoRA*) comes and goes within a run. ComfyUI copies it into the weight
and its backup over that, which codes cannot take. So it, too, is added in each call.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import comfy.hooks
import comfy.lora
import comfy.model_patcher
import comfy.utils
import torch
from comfy.model_patcher import LowVramPatch

from ..hswq_core.calibration.arguments import leaves, rebuilt
from ..hswq_core.files.layers import WEIGHT
from .ops import PATCHED_DTYPE
from .quantized_tensor import codes_and_scale, is_quantized
from .saving import stored_tensors

_AS_HELD = "comfy_patched_weights"
"""ComfyUI's mark of a layer whose patches were added where it is."""


class AddedPatches:
    """What a MODEL's patches make of a layer's weight: what the weight would be if they were added to it where it is.

    Args:
        key: of the weight, in the whole model.
        patches: ComfyUI's, those of this key.
        most: bytes that may be kept near the weight for it.
        originals: the weight of this key as ComfyUI hands it to patches that are differences to it.
        held: the type in which the weight is held, and rounded to, when patches were added to it where it is.
    """

    def __init__(
        self,
        key: str,
        patches: list[Any],
        most: int,
        originals: dict[str, Any] | None = None,
        held: torch.dtype = PATCHED_DTYPE,
    ) -> None:
        self.key, self._patches, self._near, self._originals = key, patches, patches, originals
        self._held = held
        self._nbytes = sum(tensor.nbytes for tensor in _tensors_of(patches))
        self._fits = self._nbytes <= most

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        base = weight.to(self._held).float()
        named: dict[str, Any] = {} if self._originals is None else {"original_weights": self._originals}
        patched = comfy.lora.calculate_weight(self._near, base, self.key, intermediate_dtype=torch.float32, **named)
        return patched.to(self._held).to(weight.dtype)

    def move_to(self, device: torch.device) -> int:
        """Keep what is added on a device, so that it does not travel in each call. Returns: its bytes there.

        A LoRA is small beside the weight; what is as large as that, as in a merge of two models, stays where it is.
        """
        near = self._fits and device.type != "cpu"
        self._near = _on_device(self._patches, device) if near else self._patches
        return self._nbytes if near else 0


class HookPatches(AddedPatches):
    """The same for the patches of a group of hooks, while that is applied."""


class QuantizedWeights:
    """What ComfyUI's classes of model patchers need to know of quantized weights; put before one of them.

    Models are loaded in inference mode, and their tensors can only be replaced in it. ComfyUI also unloads outside.
    """

    model: Any
    patches: dict[str, list[Any]]
    backup: dict[str, Any]

    @torch.inference_mode()
    def unpatch_model(self, *args: Any, **named: Any) -> Any:
        above: Any = super()
        return above.unpatch_model(*args, **named)

    def model_state_dict_for_saving(self, model: Any = None, prefix: str = "") -> dict[str, Any]:
        """Of newer versions: what is written, weights with their patches when it is their turn.

        ComfyUI believes that a patched weight is still quantized, that codes have gradients, and that no patch was
        added to a weight where it is. So quantized layers are written as they are held, and their patches looked after.
        """
        above: Any = super()
        modules = self.model.named_modules()
        whole = {name: layer for name, layer in modules if is_quantized(getattr(layer, "weight", None))}
        theirs = {id(tensor) for layer in whole.values() for tensor in layer.parameters(recurse=False)}
        before = [(vars(layer), vars(layer).get(_AS_HELD)) for layer in whole.values()]
        for attributes, _ in before:
            attributes[_AS_HELD] = True
        try:
            found = above.model_state_dict_for_saving(model, prefix)
        finally:
            for attributes, value in before:
                attributes.pop(_AS_HELD) if value is None else attributes.update({_AS_HELD: value})

        def stored(names: set[str]) -> set[str]:
            return {
                key for name in names for key in stored_tensors(whole[name].weight, f"{name}.".removeprefix(prefix))
            }

        patched = {name for name in whole if name + WEIGHT in self.patches}
        for key in stored(patched) - stored(whole.keys() - patched):
            found.pop(key, None)
        for key in self.patches:
            held = comfy.utils.get_attr(self.model, key)
            if key in self.backup:
                original = self.backup[key].weight
                found[key.removeprefix(prefix)] = held.to(PATCHED_DTYPE if is_quantized(original) else original.dtype)
            elif id(held) in theirs:
                shape = torch.empty(held.shape, dtype=PATCHED_DTYPE, device="meta") if is_quantized(held) else held
                found[key.removeprefix(prefix)] = comfy.model_patcher.LazyCastingParam(self, key, shape)
        return found

    def _patched_and_quantized(self) -> Iterator[tuple[str, torch.Tensor]]:
        for key in self.patches:
            if (weight := self._quantized(key)) is not None:
                yield key, weight

    def _quantized(self, key: str) -> torch.Tensor | None:
        """The weight of this key, if it is a quantized one."""
        weight = comfy.utils.get_attr(self.model, key) if key.endswith(WEIGHT) else None
        return weight if is_quantized(weight) else None

    def _layer_of(self, key: str) -> Any:
        return comfy.utils.get_attr(self.model, key.removesuffix(WEIGHT))


class QuantizedPatching(QuantizedWeights):
    """What is put before ComfyUI's class that moves whole layers."""

    _in_place = True
    cached_hook_patches: dict[Any, dict[str, Any]]
    hook_mode: Any

    @torch.inference_mode()
    def load(self, device_to: Any = None, lowvram_model_memory: float = 0, *args: Any, **named: Any) -> None:
        above: Any = super()
        forced = bool(named.get("force_patch_weights", args[0] if args else False))
        patched = [weight for _, weight in self._patched_and_quantized()]
        grown = sum(PATCHED_DTYPE.itemsize * weight.numel() - codes_and_scale(weight)[0].nbytes for weight in patched)
        short = 0 < lowvram_model_memory < self.model_size() + grown  # type: ignore[attr-defined]
        self._in_place = forced or not short
        try:
            above.load(device_to, lowvram_model_memory, *args, **named)
        finally:
            self._in_place = True
        if not forced:
            self._add_in_calls(device_to)

    @torch.inference_mode()
    def partially_unload(self, device_to: Any, *args: Any, **named: Any) -> Any:
        above: Any = super()
        freed = above.partially_unload(device_to, *args, **named)
        self._add_in_calls(device_to)
        return freed

    def patch_weight_to_device(self, key: str, *args: Any, **named: Any) -> Any:
        above: Any = super()
        if not self._in_place and key in self.patches and self._quantized(key) is not None:
            return None
        return above.patch_weight_to_device(key, *args, **named)

    def patch_hook_weight_to_device(
        self, hooks: Any, combined_patches: dict[str, list[Any]], key: str, original_weights: dict[str, Any],
        *args: Any, **named: Any,
    ) -> None:  # fmt: skip
        above: Any = super()
        weight = self._quantized(key)
        if weight is None or key not in combined_patches:
            above.patch_hook_weight_to_device(hooks, combined_patches, key, original_weights, *args, **named)
            return
        original = {key: original_weights[key]}
        added = HookPatches(key, combined_patches[key], weight.numel() // 2, original)
        added.move_to(self.load_device)  # type: ignore[attr-defined]
        self._add_hook(added)
        if self.hook_mode == comfy.hooks.EnumHookMode.MaxSpeed:
            # Where ComfyUI keeps what these hooks make of the other layers, and looks the next time.
            self.cached_hook_patches.setdefault(hooks, {})[key] = added

    def patch_cached_hook_weights(self, cached_weights: dict[str, Any], key: str, *args: Any, **named: Any) -> None:
        above: Any = super()
        added = cached_weights[key]
        if not isinstance(added, HookPatches):
            above.patch_cached_hook_weights(cached_weights, key, *args, **named)
            return
        self._remove_hooks({key})
        self._add_hook(added)

    def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:
        above: Any = super()
        above.unpatch_hooks(whitelist_keys_set)
        self._remove_hooks(whitelist_keys_set)

    def _add_hook(self, added: HookPatches) -> None:
        layer = self._layer_of(added.key)
        layer.weight_function = [*layer.weight_function, added]  # the list may be that of all layers
        self._hooked.add(added.key)

    def _remove_hooks(self, keys: set[str] | None) -> None:
        """Take the patches of hooks away from these layers; ``None``, or no key, is from all, as ComfyUI has it."""
        for key in self._hooked & keys if keys else set(self._hooked):
            layer = self._layer_of(key)
            layer.weight_function = [f for f in layer.weight_function if not isinstance(f, HookPatches)]
            self._hooked.discard(key)

    @property
    def _hooked(self) -> set[str]:
        """The weights that hooks add to now. It is the module's, as clones share that."""
        return vars(self.model).setdefault("hswq_hooked", set())

    def _add_in_calls(self, device: Any) -> None:
        """Add the patches of all quantized layers in their calls, also where ComfyUI would do so itself."""
        for key, weight in self._patched_and_quantized():
            module = self._layer_of(key)
            kinds = [type(f) for f in module.weight_function]
            if AddedPatches in kinds and LowVramPatch not in kinds:
                continue  # it has them, near its weight
            added = AddedPatches(key, self.patches[key], weight.numel() // 2)
            others = [f for f in module.weight_function if type(f) is not AddedPatches and type(f) is not LowVramPatch]
            module.weight_function = [added, *others]
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
