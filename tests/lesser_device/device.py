"""A device that lacks what Apple's lack, made of the CPU: for tests on machines without one.

Its tensors are the CPU's, of a class of their own. Of them Python sees that they are on ``mps:0``; they cannot be mixed
with tensors of the CPU, and nothing of a type that the device lacks can be made there, sent there or computed with
there: torch's own messages are raised. So what is done on the device is told from what is done on the host, where FP8
and float64 are as ever. What torch computes inside one of its own operations is not seen.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

DEVICE, HOST = torch.device("mps", 0), torch.device("cpu")
FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})
FLOAT64 = frozenset({torch.float64})
lacking: set[torch.dtype] = {*FP8, *FLOAT64}
"""The types that the device does not have."""

lacking_operations = {torch._int_mm, torch._scaled_mm}  # pyright: ignore[reportPrivateImportUsage]
"""The operations that it does not have."""

_NO_ARRAYS = {torch.Tensor.numpy, torch.Tensor.__array__}
_BETWEEN_DEVICES = {
    torch.Tensor.copy_, torch.Tensor.to, torch.Tensor.type_as, torch.Tensor.__getitem__, torch.Tensor.__setitem__,
    torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like, torch.rand_like, torch.randn_like,
    torch.Tensor.new_tensor,
}  # fmt: skip
_OF_THE_HOST = {torch.Tensor, torch.nn.Parameter, int, float, bool, type(None), torch.dtype, slice}
"""Arguments that have nothing to do with the device."""


class DeviceTensor(torch.Tensor):
    """A tensor on the device."""

    device = property(lambda _self: DEVICE)  # type: ignore[assignment]
    is_cpu = property(lambda _self: False)  # type: ignore[assignment]
    is_mps = property(lambda _self: True)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = self.detach().clone()
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if _is_parameter(self) else copied
        return memo[id(self)]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class LesserDevice(TorchFunctionMode):
    """Meanwhile there is the device, in this thread."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


@contextlib.contextmanager
def everywhere() -> Iterator[torch.device]:
    """Meanwhile there is the device, in this thread and in those that begin."""
    run = threading.Thread.run

    def run_with_it(self: threading.Thread) -> None:
        with LesserDevice():
            run(self)

    threading.Thread.run = run_with_it  # type: ignore[method-assign]
    try:
        with LesserDevice():
            yield DEVICE
    finally:
        threading.Thread.run = run  # type: ignore[method-assign]


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if _OF_THE_HOST.issuperset(map(type, args)) and _OF_THE_HOST.issuperset(map(type, kwargs.values())):
        return func(*args, **kwargs)  # soon decided, as most are
    if func is torch.Tensor.backward and isinstance(args[0], DeviceTensor):
        return _backward(*args, **kwargs)
    if func is torch._C._nn._parse_to:
        return func(*args, **kwargs)  # of names of devices alone
    if func is torch._has_compatible_shallow_copy_type:
        return isinstance(args[0], DeviceTensor) == isinstance(args[1], DeviceTensor)
    with torch._C.DisableTorchFunctionSubclass():
        every = list(_tensors((*args, *kwargs.values()) if kwargs else args))
        target = _target(func, args, kwargs)
        here = any(isinstance(tensor, DeviceTensor) or tensor.device == DEVICE for tensor in every)
        if not (here or target == DEVICE):
            return func(*args, **kwargs)
        return _carried_out(func, args, kwargs, every, target, here)


def _carried_out(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    every: list[torch.Tensor],
    target: torch.device | None,
    here: bool,
) -> Any:
    """An operation that the device has a part in."""
    is_here = target == DEVICE if target else here
    given = [tensor for tensor in every if not _is_wrapper(tensor)]
    _check(func, given, target)
    if len(given) == len(every):
        args, kwargs = _moved(args, HOST), _moved(kwargs, HOST)
    else:  # tensors made of others hand it on to those
        args, kwargs = _moved(args, DEVICE), _moved(kwargs, DEVICE)
        if target and func in (torch.Tensor.to, torch.Tensor.cpu) and args[0].device != target:
            return _sent(target, *args, **kwargs)
    made = func(*args, **kwargs)
    if target and given and made is given[0] and is_here != isinstance(made, DeviceTensor):
        made = made.clone()  # another device has memory of its own
    if any(made is tensor for tensor in given):
        return made  # it stays where it is
    return _placed(made) if is_here else made


def _check(func: Any, given: list[torch.Tensor], target: torch.device | None) -> None:
    if func in lacking_operations:
        raise NotImplementedError(f"The operator '{func}' is not currently implemented for the MPS device.")
    if func in _NO_ARRAYS:
        raise TypeError("can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")
    for tensor in given:
        if tensor.dtype in lacking & FP8 and target != HOST and func not in _ASKING:
            raise _refusal(tensor.dtype)
    far = [t for t in given if not isinstance(t, DeviceTensor) and t.dim()]
    if far and not target and func not in _BETWEEN_DEVICES:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cpu and mps:0 ({func})")


def _placed(made: Any) -> Any:
    if isinstance(made, torch.Tensor):
        if _is_wrapper(made):
            return made
        if made.dtype in lacking:
            raise _refusal(made.dtype)
        if not isinstance(made, DeviceTensor):
            made.__class__ = DeviceTensor  # another tensor over its memory would be a view of it
        return made
    if isinstance(made, (tuple, list)):
        each = [_placed(one) for one in made]
        return type(made)(*each) if hasattr(made, "_fields") else type(made)(each)
    return made


def _refusal(dtype: torch.dtype) -> TypeError:
    if dtype == torch.float64:
        return TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    name = str(dtype).removeprefix("torch.").capitalize()
    return TypeError(f"Trying to convert {name} to the MPS backend but it does not have support for that dtype.")


def _backward(
    tensor: torch.Tensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None
) -> None:
    """Torch calls functions in Python without the mode, with tensors of its own: those are the device's, too."""
    plain = BackwardCFunction.apply

    def apply(function: Any, *gradients: Any) -> Any:
        with torch._C._EnableTorchFunction(), LesserDevice():
            return plain(function, *_placed(gradients))

    BackwardCFunction.apply = apply  # type: ignore[method-assign]
    try:
        torch.autograd.backward(tensor, gradient, retain_graph, create_graph, inputs=inputs)
    finally:
        BackwardCFunction.apply = plain  # type: ignore[method-assign]


def _target(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device | None:
    """The device that an operation names, or one of whose tensor it is to go to."""
    if func is torch.Tensor.cpu:
        return HOST
    if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.Tensor):
        return args[1].device
    for value in (kwargs.get("device"), *args[1:2]):
        if isinstance(value, torch.device) or (isinstance(value, str) and value.partition(":")[0] in ("mps", "cpu")):
            return DEVICE if torch.device(value).type == "mps" else HOST
    return None


def _sent(target: torch.device, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A tensor made of others on another device: torch believes that it is there."""
    kwargs.pop("copy", None)
    dtype = torch._C._nn._parse_to(*args, **kwargs)[1] if args or kwargs else None
    return torch.ops.aten._to_copy.default(tensor, device=target, dtype=dtype)


def _moved(value: Any, place: torch.device) -> Any:
    """Arguments that name another place instead of the device."""
    if isinstance(value, torch.device) or (isinstance(value, str) and value.partition(":")[0] == "mps"):
        return place if torch.device(value).type == "mps" else value
    if type(value) in (tuple, list):
        return type(value)(_moved(each, place) for each in value)
    return {k: _moved(v, place) for k, v in value.items()} if type(value) is dict else value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)


def _is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether a tensor is made of others, to which its operations come."""
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def _is_parameter(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


_ASKING = {torch.Tensor.dtype.__get__, torch.Tensor.shape.__get__, torch.Tensor.dim, torch.Tensor.numel}  # type: ignore[attr-defined]
