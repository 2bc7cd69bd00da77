"""Where ComfyUI versions differ: how their memory is managed and what they compute with (but for quantized tensors)."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.quant_ops
import torch
from comfy.ldm.modules.attention import attention_pytorch

from ..hswq_core.inference.scratch import memory_for
from ..hswq_core.sensitivity.gradient import own_weight
from .quantized_tensor import dequantized, is_quantized


def ready_weight(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
    """A weight in the type that ``x`` is computed with, or ``None`` if it is on another device.

    In a run it is good until the next call, where its memory is used again.
    """
    if weight.device != x.device:
        return None
    if not is_quantized(weight) and weight.dtype == x.dtype:
        return weight
    out = memory_for(tuple(weight.shape), x.dtype, x.device)
    if is_quantized(weight):
        return dequantized(weight, x.dtype, out)
    return weight.to(x.dtype) if out is None else out.copy_(weight)


def ready_bias(bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
    """The same for a bias, in memory of its own."""
    return bias.to(x.dtype) if bias.device == x.device else None


def is_paged(layer: Any, x: torch.Tensor) -> bool:
    """Whether dynamic VRAM keeps a layer's weight elsewhere, and pages it into the device of ``x`` when it is asked."""
    return hasattr(layer, "_v") and layer.weight.device != x.device and x.device.type != "cpu"


@contextlib.contextmanager
def paged_in(layer: Any, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Such a layer's weight on the device of ``x``, as it is held, and its bias in the type of ``x``.

    Their memory may be taken away as soon as the context ends.
    """
    with _cast(layer, dtype=layer.weight.dtype, device=x.device, bias_dtype=x.dtype) as found:
        yield found


@contextlib.contextmanager
def _cast(layer: Any, *args: Any, **named: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """A layer's weight and bias as ComfyUI casts them; what that holds meanwhile is given back."""
    found = comfy.ops.cast_bias_weight(layer, *args, **named, offloadable=True)
    try:
        yield found[0], found[1]
    finally:
        comfy.ops.uncast_bias_weight(layer, *found)


_PAGES = frozenset({"_v", "_v_signature", "_v_weight", "_v_bias", "_prefetch", "_pins", "_pin_state"})
"""What dynamic VRAM keeps at a layer: addresses of memory that is this layer's alone."""


def without_pages(attributes: dict[str, Any]) -> dict[str, Any]:
    """A layer's attributes for a copy of it."""
    return {name: value for name, value in attributes.items() if name not in _PAGES}


def keep_type_in_pages(layer: Any) -> None:
    """Have dynamic VRAM hold a layer's tensors in the types that they have, and not in those of the whole model."""
    for name, parameter in layer.named_parameters(recurse=False):
        if hasattr(layer, f"{name}_comfy_model_dtype"):
            setattr(layer, f"{name}_comfy_model_dtype", parameter.dtype)


_COPIES = "multigpu"
"""Under this name ComfyUI keeps a MODEL's copies on other devices."""


@contextlib.contextmanager
def on_one_device(patcher: Any) -> Iterator[None]:
    """Meanwhile a MODEL samples on its own device alone, where newer versions share the work among copies on others.

    Each copy has modules of its own, so hooks on the MODEL's see a part of the calls.
    """
    copies = getattr(patcher, "additional_models", {}).pop(_COPIES, None)
    try:
        yield
    finally:
        if copies is not None:
            patcher.set_additional_models(_COPIES, copies)


def weight_in_use(module: Any, like: torch.Tensor) -> torch.Tensor:
    """A layer's weight as it is computed with, LoRA included, in the type and on the device of ``like``."""
    if hasattr(module, "comfy_cast_weights"):
        if not is_paged(module, like):
            return comfy.ops.cast_bias_weight(module, like)[0]
        with _cast(module, like) as (weight, _):
            return weight.clone()
    return own_weight(module, like)


def differentiable_attention() -> dict[str, Any]:
    """Transformer options with which attention is torch's own: some of the faster kernels have no backward pass."""
    return {"optimized_attention_override": lambda _chosen, *args, **kwargs: attention_pytorch(*args, **kwargs)}


@contextlib.contextmanager
def differentiable_operations() -> Iterator[None]:
    """Meanwhile ComfyUI computes as it does in training, and by plain torch where its kernels have no backward pass."""
    with contextlib.ExitStack() as undo:
        for owner, name, value in (
            (comfy.model_management, "in_training", True),
            (comfy.quant_ops, "ck", _PlainKernels(getattr(comfy.quant_ops, "ck", None))),
        ):
            replace_attribute(undo, owner, name, value)
        yield


def replace_attribute(undo: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Give what an owner has under this name another value until the stack is left; nothing where it has none."""
    if hasattr(owner, name):
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


class _PlainKernels:
    """ComfyUI's kernels, with its own plain versions of those that rotate and normalize."""

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels
        self._plain = getattr(getattr(kernels, "backends", None), "eager", None)

    def __getattr__(self, name: str) -> Any:
        plain = getattr(self._plain, name, None) if name.startswith(("apply_rope", "rms_", "adaln")) else None
        return getattr(self._kernels, name) if plain is None else plain


def without_dynamic_vram(load: Callable[..., Any]) -> dict[str, Any]:
    """Arguments that keep one of ComfyUI's load functions from its dynamic VRAM, where it has that."""
    return {"disable_dynamic": True} if "disable_dynamic" in inspect.signature(load).parameters else {}


def remember_reload(patcher: Any, reload: Callable[..., Any], *arguments: Any) -> None:
    """Tell ComfyUI how to load a MODEL once more, where it asks: without dynamic VRAM, or for another device.

    Args: reload: gives the patcher; takes ``disable_dynamic``.
    """
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (reload, arguments)


def multiplies_fp8() -> bool:
    """Whether ComfyUI's device has FP8 arithmetic."""
    supports = getattr(comfy.model_management, "supports_fp8_compute", None)
    return bool(supports and supports(comfy.model_management.get_torch_device()))
