"""A tensor that stays in its file until something is done with it, and is read anew each time.

A program that copies a checkpoint's tensors into a model of its own has both in memory at the end. With these it has
the model, and the one tensor that is copied at the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

_STILL_DEFERRED = (torch.ops.aten.detach.default, torch.ops.aten.slice.Tensor, torch.ops.aten.t.default)
"""What gives another deferred tensor: a Parameter is made of what is detached, and projections that are stored as one
matrix are cut into three long before they are copied."""


class DeferredTensor(torch.Tensor):
    """Args:
    read: gives the tensor, in memory of its own.
    shape, dtype: of that tensor.
    """

    _read: Callable[[], torch.Tensor]

    @staticmethod
    def __new__(cls: Any, read: Callable[[], torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, requires_grad=False)
        made._read = read
        return made

    def read(self) -> torch.Tensor:
        """The tensor. Errors: those of the file that it is in."""
        return _whole(self._read())

    def __repr__(self, **_: Any) -> str:
        return f"DeferredTensor({list(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _STILL_DEFERRED:
            source, *more = args
            shape = func(torch.empty(source.shape, dtype=source.dtype, device="meta"), *more, **kwargs).shape
            return DeferredTensor(lambda: func(source._read(), *more, **kwargs), tuple(shape), source.dtype)
        args, kwargs = tree_map_only(DeferredTensor, lambda each: each._read(), (args, kwargs))
        return _whole(func(*args, **kwargs))


def read_deferred(modules: Iterable[torch.nn.Module]) -> None:
    """Read what a model has taken over as it was, instead of copying it."""
    for module in modules:
        for child in module.modules():
            for name, parameter in child._parameters.items():
                if isinstance(parameter, DeferredTensor):
                    child._parameters[name] = torch.nn.Parameter(parameter.read(), requires_grad=False)
            for name, buffer in child._buffers.items():
                if isinstance(buffer, DeferredTensor):
                    child._buffers[name] = buffer.read()


def _whole(made: Any) -> Any:
    """A tensor that keeps nothing alive but itself: a part of what was read would keep all of it."""
    is_part = isinstance(made, torch.Tensor) and made.untyped_storage().nbytes() > made.nbytes
    return made.clone() if is_part else made
