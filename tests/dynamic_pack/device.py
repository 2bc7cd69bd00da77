"""A device that is not the CPU, as torch sees it: its tensors are of another device, and the CPU computes with them.

Whoever mixes tensors of the two devices gets torch's error, as with a real card.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch.utils import _pytree, backend_registration

NAME = "card"
aten: Any = torch.ops.aten
_MAY_MIX = {aten.copy_.default, aten._copy_from.default, aten.index.Tensor, aten.index_put_.default}
"""Operations that take tensors of both devices, as those of real cards do: copies, and indices of the CPU."""
_kept: list[torch.library.Library] = []


def add_card() -> torch.device:
    """Make the device known to torch; once in a process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    _kept.append(library)
    torch.Generator = _Generator
    return torch.device(NAME, 0)


class _Generator(torch.Generator):
    """Of the card, too: the CPU draws its numbers."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls)


class CardTensor(torch.Tensor):
    """A tensor of the card; ``host`` is its memory."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls: Any, host: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, host: torch.Tensor) -> None:
        self.host = host

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.host.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> CardTensor:
        return memo.setdefault(id(self), CardTensor(self.host.clone()))

    def tolist(self) -> Any:
        return self.host.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CardTensor({self.host!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(not issubclass(each, cls | torch.nn.Parameter) and each is not torch.Tensor for each in types):
            return NotImplemented  # a quantized tensor knows what to do with what it is made of
        if func is aten._has_compatible_shallow_copy_type.default:
            return False  # a module's parameters are replaced when it moves
        flat, spec = _pytree.tree_flatten((args, kwargs))
        _check_devices(func, flat)
        target = kwargs.get("device")
        hosts = _pytree.tree_unflatten([_host(each) for each in flat], spec)
        result = func(*hosts[0], **hosts[1])
        if target is not None and torch.device(target).type != NAME:
            return result
        known = {id(each.host): each for each in flat if isinstance(each, CardTensor)}
        return _pytree.tree_map_only(
            torch.Tensor, lambda each: known[id(each)] if id(each) in known else CardTensor(each), result
        )


def card_bytes(address: int, size: int) -> CardTensor:
    """The card's memory at an address, as bytes."""
    return CardTensor(torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=torch.uint8))


def _host(value: Any) -> Any:
    if isinstance(value, CardTensor):
        return value.host
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _check_devices(func: Any, flat: list[Any]) -> None:
    on_host = [each for each in flat if isinstance(each, torch.Tensor) and not isinstance(each, CardTensor)]
    if func not in _MAY_MIX and any(each.dim() for each in on_host):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found {NAME}:0 and cpu")


def _empty(size: Any, dtype: Any = None, layout: Any = None, device: Any = None, *_: Any, **__: Any) -> CardTensor:
    return CardTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> CardTensor:
    return CardTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: torch.Tensor, target: torch.Tensor, *_: Any) -> torch.Tensor:
    """Of numbers and lists of Python, which torch copies below the level at which a class of tensors is seen."""
    _host(target).copy_(_host(source))
    return target
