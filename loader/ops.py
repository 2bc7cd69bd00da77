"""Custom operations: every layer takes its weights as they are in the file, and 8-bit ones stay 8 bits.

They are ComfyUI's own ``manual_cast`` layers, which cast a weight to the input's type when they run, and a
quantized tensor dequantizes in that cast. Where nothing is to be done but that (the weight is on the input's
device, no LoRA waits to be added), the fast forward computes the same without the cast's bookkeeping, which on
a fast GPU takes longer than the layer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import comfy.ops
import torch

from ..hswq_core.errors import CheckpointError
from .compat import is_paged, keep_type_in_pages, paged_in, ready_bias, ready_weight, without_pages
from .quantized_tensor import dequantized, is_quantized
from .saving import stored_tensors

PATCHED_DTYPE = torch.float16
"""In which a quantized layer's weight is held, and rounded to, when a patch was added to it."""
_in_file_form: ContextVar[bool] = ContextVar("in_file_form", default=True)


@contextlib.contextmanager
def keep_quantized_tensors() -> Iterator[None]:
    """Meanwhile a state dict has each FP8 weight with its scale as one tensor, and not as a file has them."""
    token = _in_file_form.set(False)
    try:
        yield
    finally:
        _in_file_form.reset(token)


class _PreserveDtype:
    """Takes tensors over from the state dict: no copy of a memory-mapped file, no cast to the model's type.

    ComfyUI stores all of a model in one type, the one that most of its weights have. For a file of FP8 and
    FP16 layers that is FP8, and the layers that were kept in FP16 on purpose would be lost.
    """

    holds_codes = False

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        key = f"{prefix}weight"
        if is_quantized(state_dict.get(key)):
            if not self.holds_codes:
                state_dict[key] = state_dict[key].dequantize()
            elif (replaced := getattr(self, "weight", None)) is not None:
                replaced.requires_grad_(
                    False
                )  # torch would ask the same of its successor, and integers have no gradient
        metadata = {**local_metadata, "assign_to_params_buffers": True}
        super()._load_from_state_dict(state_dict, prefix, metadata, *args)  # type: ignore[misc]
        keep_type_in_pages(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the layer. Of a tensor torch would copy the storage, which codes with a scale do not have."""
        weight: Any = getattr(self, "weight", None)
        if is_quantized(weight) and id(weight) not in memo:
            with torch.inference_mode():
                memo[id(weight)] = torch.nn.Parameter(weight.clone(), requires_grad=False)
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(without_pages(vars(self)), memo))
        return made


class _FastForward(_PreserveDtype):
    """Computes at once when nothing is to be done to the weights but to dequantize them."""

    def forward_comfy_cast_weights(self, input: torch.Tensor) -> torch.Tensor:
        layer: Any = self
        if not (layer.weight_function or layer.bias_function) and layer.weight is not None:
            if is_paged(layer, input):
                with paged_in(layer, input) as (weight, bias):
                    done = self._at_once(input, weight, bias)
            else:
                done = self._at_once(input, layer.weight, layer.bias)
            if done is not None:
                return done
        return super().forward_comfy_cast_weights(input)  # type: ignore[misc]

    def _at_once(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        """The layer's output, or ``None`` if its weight or bias is on another device."""
        layer: Any = self
        if bias is not None and (bias := ready_bias(bias, x)) is None:
            return None
        done = self._fast(x, weight, bias)
        if done is not None:
            return done
        ready = ready_weight(weight, x)
        return None if ready is None else layer._compute(x, ready, bias)

    def _fast(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
        """The layer's output by a product in 8 bits, if it is to compute so and can."""
        return None


class _QuantizedWeight(_PreserveDtype):
    """What ComfyUI asks of a layer whose weight may be quantized: patching for LoRA, and saving."""

    holds_codes = True
    weight: torch.nn.Parameter

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        if f"{prefix}weight" not in state_dict:
            # ComfyUI would go on with whatever the memory held.
            raise CheckpointError("its weight is missing", where=prefix.removesuffix("."))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the layer; the weight is replaced by the moved one.

        Torch would swap what the two hold, which fails for tensors of a class of their own that were made in inference
        mode, as all are that a node has loaded. ComfyUI unloads models outside of it.
        """
        weight = self._parameters.get("weight")  # type: ignore[attr-defined]
        if not is_quantized(weight):
            return super()._apply(fn, recurse)  # type: ignore[misc]
        self.weight = None  # type: ignore[assignment]
        try:
            super()._apply(fn, recurse)  # type: ignore[misc]
            with torch.inference_mode():
                weight = torch.nn.Parameter(fn(weight), requires_grad=False)
        finally:
            self.weight = weight
        return self

    def convert_weight(self, weight: torch.Tensor, inplace: bool = False, **_: Any) -> torch.Tensor:
        """The weight as numbers a patch can be added to: float32, of what FP16 holds of a quantized one.

        Args: weight: as it is stored, or dequantized already.
        """
        if not is_quantized(self.weight):
            return weight
        if is_quantized(weight):
            weight = dequantized(weight, PATCHED_DTYPE)
        return weight.to(PATCHED_DTYPE).float()

    def set_weight(
        self,
        weight: torch.Tensor,
        inplace_update: bool = False,
        seed: int | None = None,
        return_weight: bool = False,
        **_: Any,
    ) -> torch.Tensor | None:
        """Take a patched weight, in FP16.

        It is not rounded back to FP8: a LoRA changes weights by less than FP8's steps, so most of it would
        be rounded away. Unpatching puts the original tensor back.
        """
        weight = weight.to(PATCHED_DTYPE if is_quantized(self.weight) else self.weight.dtype)
        if return_weight:
            return weight
        if inplace_update and not is_quantized(self.weight):
            self.weight.data.copy_(weight)
        else:
            self.weight = torch.nn.Parameter(weight, requires_grad=False)
        return None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        # A file is made of the diffusion model's own state dict. That of the whole model serves merging and
        # LoRA, which look up every key as an attribute and add to what they find.
        for_a_file = _in_file_form.get() and not prefix.startswith("diffusion_model.")
        if for_a_file and is_quantized(self.weight):
            destination.update(stored_tensors(self.weight, prefix))


class HSWQOperations(comfy.ops.manual_cast):
    """Pass as ``custom_operations``. Layers without an FP8 form keep their type, too."""

    class Linear(_QuantizedWeight, _FastForward, comfy.ops.manual_cast.Linear):
        def _compute(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return torch.nn.functional.linear(x, weight, bias)

    class Conv2d(_QuantizedWeight, _FastForward, comfy.ops.manual_cast.Conv2d):
        def _compute(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return self._conv_forward(x, weight, bias)

    class Conv1d(_QuantizedWeight, comfy.ops.manual_cast.Conv1d):
        pass

    class Conv3d(_QuantizedWeight, comfy.ops.manual_cast.Conv3d):
        pass

    class ConvTranspose1d(_PreserveDtype, comfy.ops.manual_cast.ConvTranspose1d):
        pass

    class ConvTranspose2d(_PreserveDtype, comfy.ops.manual_cast.ConvTranspose2d):
        pass

    class GroupNorm(_FastForward, comfy.ops.manual_cast.GroupNorm):
        def _compute(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return torch.nn.functional.group_norm(x, self.num_groups, weight, bias, self.eps)

    class LayerNorm(_FastForward, comfy.ops.manual_cast.LayerNorm):
        def _compute(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return torch.nn.functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)

    class RMSNorm(_PreserveDtype, comfy.ops.manual_cast.RMSNorm):
        pass

    class Embedding(_PreserveDtype, comfy.ops.manual_cast.Embedding):
        pass
