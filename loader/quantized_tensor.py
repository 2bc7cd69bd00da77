"""How a quantized weight is held: as ComfyUI's ``QuantizedTensor``, which stays as it is on disk until a layer runs.

Casting, offloading, LoRA and saving all know it. Only its construction differs between versions. Newer ones have typed
layouts, and theirs multiplies by the scale in the compute type: in FP16 that rounds every scale to 11 bits and loses
small ones. So we register layouts of our own, which multiply in float32 and round once. They do nothing else: what a
layout of ComfyUI's can beyond that (products in FP8, fused operations) is made for its own codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.quant_ops
import torch
from comfy.quant_ops import QuantizedTensor

from ..hswq_core.devices import holds
from ..hswq_core.files.decode import LayerDecoder
from ..hswq_core.inference.dequantize import dequantize
from ..hswq_core.inference.fp8_bytes import numbers_of
from ..hswq_core.inference.packed import dequantize_packed
from ..hswq_core.rounding.rotation import NONE, rotated

_STOCK = "TensorCoreFP8Layout"
_SCALED, _PACKED, _ROTATED = "HSWQScaledFP8Layout", "HSWQPackedLayout", "HSWQRotatedLayout"
_BYTES = "HSWQBytesLayout"
"""FP8 as bytes, where ComfyUI's device has no such type: there no tensor of it may come."""


def _is_typed() -> bool:
    """Whether this version has typed layouts; if so, ours are registered."""
    register = getattr(comfy.quant_ops, "register_layout_class", None)
    if register is None:
        layouts: dict[str, Any] = comfy.quant_ops.LAYOUTS
        layouts[_PACKED] = _UntypedPackedLayout
        layouts[_ROTATED] = _UntypedRotatedLayout
        layouts[_BYTES] = _UntypedBytesLayout
        return False
    stock: Any = comfy.quant_ops.get_layout_class(_STOCK)

    class Scaled(comfy.quant_ops.QuantizedLayout):
        Params = stock.Params

        @classmethod
        def quantize(cls, tensor: torch.Tensor, **_: Any) -> Any:
            raise TypeError("codes of HSWQ are made when a file is quantized, and never again")

        @classmethod
        def dequantize(cls, qdata: torch.Tensor, params: Any) -> torch.Tensor:
            return dequantize(qdata, params.scale, params.orig_dtype)

        @classmethod
        def get_plain_tensors(cls, qtensor: Any) -> tuple[torch.Tensor, torch.Tensor]:
            return codes_and_scale(qtensor)

        @classmethod
        def state_dict_tensors(cls, qdata: torch.Tensor, params: Any) -> dict[str, torch.Tensor]:
            return {"": qdata, "_scale": params.scale}

    class Packed(Scaled):
        @dataclass(frozen=True)
        class Params(stock.Params):
            bits: int = 8
            factor: float | None = None

            def _validate_tensor_fields(self) -> None:
                """Scales stay in 16 or 8 bits, as they are in the file."""

        @classmethod
        def dequantize(cls, qdata: torch.Tensor, params: Any) -> torch.Tensor:
            shape, dtype = params.orig_shape, params.orig_dtype
            return dequantize_packed(qdata, params.scale, params.bits, shape, dtype, params.factor)

    class Rotated(Scaled):
        @dataclass(frozen=True)
        class Params(stock.Params):
            group: int = NONE

        @classmethod
        def dequantize(cls, qdata: torch.Tensor, params: Any) -> torch.Tensor:
            return _turned_back(qdata, params.scale, params.group, params.orig_dtype)

    class Bytes(Scaled):
        @dataclass(frozen=True)
        class Params(stock.Params):
            group: int = NONE
            kind: torch.dtype = torch.float8_e4m3fn

        @classmethod
        def dequantize(cls, qdata: torch.Tensor, params: Any) -> torch.Tensor:
            return _turned_back(numbers_of(qdata, params.kind), params.scale, params.group, params.orig_dtype)

    register(_SCALED, Scaled)
    register(_BYTES, Bytes)
    register(_ROTATED, Rotated)
    register(_PACKED, Packed)
    return True


class _UntypedPackedLayout(comfy.quant_ops.QuantizedLayout):
    """Of older versions."""

    @classmethod
    def quantize(cls, tensor: torch.Tensor, **_: Any) -> Any:
        raise TypeError("codes of HSWQ are made when a file is quantized, and never again")

    @staticmethod
    def dequantize(  # type: ignore[override]
        qdata: torch.Tensor,
        scale: torch.Tensor,
        orig_dtype: torch.dtype,
        bits: int,
        orig_shape: tuple[int, ...],
        factor: float | None,
        **_: Any,
    ) -> torch.Tensor:
        return dequantize_packed(qdata, scale, bits, orig_shape, orig_dtype, factor)

    @classmethod
    def get_plain_tensors(cls, qtensor: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return codes_and_scale(qtensor)


class _UntypedRotatedLayout(_UntypedPackedLayout):
    """Of older versions."""

    @staticmethod
    def dequantize(  # type: ignore[override]
        qdata: torch.Tensor, scale: torch.Tensor, orig_dtype: torch.dtype, group: int, **_: Any
    ) -> torch.Tensor:
        return _turned_back(qdata, scale, group, orig_dtype)


class _UntypedBytesLayout(_UntypedPackedLayout):
    """Of older versions."""

    @staticmethod
    def dequantize(  # type: ignore[override]
        qdata: torch.Tensor, scale: torch.Tensor, orig_dtype: torch.dtype, group: int, kind: torch.dtype, **_: Any
    ) -> torch.Tensor:
        return _turned_back(numbers_of(qdata, kind), scale, group, orig_dtype)


class _UntypedPacked(QuantizedTensor):
    """Of older versions, in which a quantized tensor has the shape of its codes: this one has that of the weight."""

    @staticmethod
    def __new__(cls: Any, qdata: torch.Tensor, layout_type: str, layout_params: Mapping[str, Any]) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls, layout_params["orig_shape"], device=qdata.device, dtype=qdata.dtype, requires_grad=False
        )

    @property
    def nbytes(self) -> int:
        return self._qdata.nbytes

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result: Any = super().__torch_dispatch__(func, types, args, kwargs)
        if type(result) is QuantizedTensor and result._layout_type == _PACKED:
            return cls(result._qdata, _PACKED, result._layout_params)
        return result


_TYPED = _is_typed()


def quantized_tensor(codes: torch.Tensor, decoder: LayerDecoder, dtype: torch.dtype) -> torch.Tensor:
    """A layer's codes and scale as one tensor that computes as the layer's weight in ``dtype``.

    Args:
        codes: as they are in the file, packed or not.
        decoder: of the layer.
    """
    scale, shape, is_packed = decoder.scale, decoder.shape, decoder.bits < 8
    more: dict[str, Any] = {"bits": decoder.bits, "factor": decoder.factor} if is_packed else {}
    if decoder.group != NONE:
        more = {"group": decoder.group}
    own = _PACKED if is_packed else _ROTATED if more else None
    if not is_held(scale.dtype):
        scale = scale.half()
    if not is_held(codes.dtype):
        own, more, codes = _BYTES, {"group": decoder.group, "kind": codes.dtype}, codes.view(torch.uint8)
    if _TYPED:
        name = own or _SCALED
        make = comfy.quant_ops.get_layout_class(name).Params
        return QuantizedTensor(codes, name, make(scale=scale, orig_dtype=dtype, orig_shape=shape, **more))
    params = {"scale": scale, "orig_dtype": dtype}
    if is_packed:
        return _UntypedPacked(codes, _PACKED, params | more | {"orig_shape": shape})
    return QuantizedTensor(codes, own or _STOCK, params | more)


def is_held(dtype: torch.dtype) -> bool:
    """Whether a type of a file's tensors can be on ComfyUI's device: FP8 is not everywhere."""
    is_fp8 = dtype.is_floating_point and dtype.itemsize == 1
    return not is_fp8 or holds(dtype, comfy.model_management.get_torch_device())


def is_quantized(weight: object) -> bool:
    return isinstance(weight, QuantizedTensor)


def codes_and_scale(weight: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes, as they are held, and the scale of a tensor made by ``quantized_tensor``."""
    return weight._qdata, _param(weight, "scale")


def stored_codes(weight: Any) -> torch.Tensor:
    """The codes of such a tensor as they are in the file: those held as bytes of FP8 on the CPU."""
    codes, kind = codes_and_scale(weight)[0], _param(weight, "kind")
    return codes if kind is None else codes.cpu().view(kind)


def bits_of(weight: Any) -> int:
    """Of a code of such a tensor."""
    return _param(weight, "bits", 8)


def group_of(weight: Any) -> int:
    """How many columns of such a tensor are rotated together; 1 is none."""
    return _param(weight, "group", NONE)


def factor_of(weight: Any) -> float | None:
    """Of NVFP4, what the scales of such a tensor are multiplied with."""
    return _param(weight, "factor")


def dequantized(weight: Any, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    """The weight that such a tensor stands for, computed in float32 and rounded once.

    Args: out: memory that may be used for it, of its shape and type.
    """
    codes, scale = codes_and_scale(weight)
    bits = bits_of(weight)
    if bits < 8:
        shape = tuple(_param(weight, "orig_shape"))
        return dequantize_packed(codes, scale, bits, shape, dtype, factor_of(weight))
    if (kind := _param(weight, "kind")) is not None:
        codes = numbers_of(codes, kind)
    if (group := group_of(weight)) != NONE:
        return _turned_back(codes, scale, group, dtype)
    return dequantize(codes, scale, dtype, out)


def _turned_back(codes: torch.Tensor, scale: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """The weight of a layer whose columns are rotated, as they were before."""
    return rotated(dequantize(codes, scale, torch.float32), group).to(dtype)


def _param(weight: Any, name: str, default: Any = None) -> Any:
    params = getattr(weight, "_params", None)
    return weight._layout_params.get(name, default) if params is None else getattr(params, name, default)
