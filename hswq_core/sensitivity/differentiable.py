"""Making a model that was built for inference differentiable for a while, without a copy of its weights.

Three things stand in the way. Tensors made in inference mode cannot be saved for a backward pass: they are replaced by
ordinary tensors over the same memory. Layers would save their weights: each measured layer becomes a function of its
input alone, which asks for its weight again in the backward pass. And the activations of a whole model do not fit
beside it: blocks are recomputed instead of kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.graph import allow_mutation_on_saved_tensors
from torch.utils.checkpoint import checkpoint

from ..calibration.arguments import layer_input, rebuilt

_BLOCK = (2, 16)
"""A block that is recomputed holds this many layers: a transformer or residual block of every known family."""


class Tap(Protocol):
    """Called at a layer in the forward and the backward pass."""

    def called(self) -> None:
        """The layer's module is called."""
        ...

    def backward(
        self, x: torch.Tensor, gradient: torch.Tensor, memory: dict[str, torch.Tensor], *, onward: bool
    ) -> torch.Tensor | None:
        """Given the layer's input and the gradient at its output: that at its input, if it is to go on.

        Args:
            memory: lives as long as the activations of this call do.
        """
        ...


class NotDifferentiableError(Exception):
    """A part of the model has no backward pass, or a wrong one."""


@contextlib.contextmanager
def differentiable(
    root: torch.nn.Module, taps: Mapping[torch.nn.Module, Tap], *, recompute: bool, in_place: bool
) -> Iterator[torch.Tensor]:
    """Meanwhile every output of a tapped layer has a gradient, and a backward pass calls the taps.

    Args:
        recompute: recompute blocks instead of keeping their activations.
        in_place: allow that the model changes tensors in place, as many do that are made for inference. It costs time;
            without it, such models raise RuntimeError.

    Yields: a scalar that all gradients lead to; its own gradient is not used.
    """
    with (
        contextlib.ExitStack() as undo,
        torch.inference_mode(False),
        torch.enable_grad(),
        allow_mutation_on_saved_tensors() if in_place else contextlib.nullcontext(),
    ):
        anchor = torch.zeros((), requires_grad=True)
        _alias_inference_tensors(root, undo)
        for module, tap in taps.items():
            _replace_forward(module, _tapped(module.forward, tap, anchor), undo)
        if recompute:
            for block in _blocks(root, taps):
                _replace_forward(block, _recomputed(block.forward, anchor, in_place=in_place), undo)
        yield anchor


class _Tapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, _anchor: torch.Tensor, forward: Any, tap: Tap) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.tap, ctx.memory = tap, {}
        y = forward(x)
        return y.clone() if y._is_view() else y  # what follows may change it in place, which views from here forbid

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return ctx.tap.backward(x, gradients[0], ctx.memory, onward=ctx.needs_input_grad[0]), None, None, None


def _tapped(forward: Callable[..., Any], tap: Tap, anchor: torch.Tensor) -> Callable[..., Any]:
    def tapped(*args: Any, **kwargs: Any) -> torch.Tensor:
        tap.called()
        x, more = layer_input(args, kwargs), args[1:]
        named = kwargs if args else {name: value for name, value in kwargs.items() if value is not x}
        run = forward if not (more or named) else lambda value: forward(value, *more, **named)
        return _Tapped.apply(x, anchor, run, tap)  # type: ignore[no-any-return]

    return tapped


def _recomputed(forward: Callable[..., Any], anchor: torch.Tensor, *, in_place: bool) -> Callable[..., Any]:
    def run_recomputed(*args: Any, **kwargs: Any) -> Any:
        tensors: list[torch.Tensor] = []
        layout = _without_tensors((args, kwargs), tensors)

        def run(_anchor: torch.Tensor, *given: torch.Tensor) -> Any:
            # Copies where a block may change them: they would be changed already when it is computed again.
            mine = [tensor.clone() for tensor in given] if in_place else given
            before = [tensor._version for tensor in given]
            again_args, again_kwargs = _with_tensors(layout, mine)
            result = forward(*again_args, **again_kwargs)
            if [tensor._version for tensor in given] != before:
                raise RuntimeError("a block changes its input in place")
            if not isinstance(result, (torch.Tensor, tuple)):
                raise NotDifferentiableError(f"a block gives a {type(result).__name__}")
            return result

        return checkpoint(run, anchor, *tensors, use_reentrant=True, preserve_rng_state=False)

    return run_recomputed


@dataclass(frozen=True)
class _TensorSlot:
    """Stands for the tensor of this number among arguments."""

    number: int


def _without_tensors(value: Any, tensors: list[torch.Tensor]) -> Any:
    """The arguments with places instead of tensors, which are collected: gradients only go through those."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return _TensorSlot(len(tensors) - 1)
    return rebuilt(value, lambda each: _without_tensors(each, tensors))


def _with_tensors(value: Any, tensors: Sequence[torch.Tensor]) -> Any:
    if isinstance(value, _TensorSlot):
        return tensors[value.number]
    return rebuilt(value, lambda each: _with_tensors(each, tensors))


def _replace_forward(module: torch.nn.Module, forward: Callable[..., Any], undo: contextlib.ExitStack) -> None:
    own = module.__dict__.get("forward")  # other tools replace it, too

    def restore() -> None:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own

    module.__dict__["forward"] = forward
    undo.callback(restore)


def _blocks(root: torch.nn.Module, layers: Mapping[torch.nn.Module, Tap]) -> list[torch.nn.Module]:
    """The outermost modules that are not larger than a block; not containers, which are not called."""
    found: list[torch.nn.Module] = []

    def visit(module: torch.nn.Module) -> None:
        count = sum(child in layers for child in module.modules())
        called = not isinstance(module, (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential))
        if called and module is not root and _BLOCK[0] <= count <= _BLOCK[1]:
            found.append(module)
        elif count:
            for child in module.children():
                visit(child)

    visit(root)
    return found


def _alias_inference_tensors(root: torch.nn.Module, undo: contextlib.ExitStack) -> None:
    for module in root.modules():
        for place in (module._parameters, module._buffers, module.__dict__):
            for name, tensor in list(place.items()):
                if isinstance(tensor, torch.Tensor) and tensor.is_inference():
                    undo.callback(place.__setitem__, name, tensor)
                    place[name] = without_inference_mode(tensor)


def without_inference_mode(tensor: torch.Tensor) -> Any:
    """An ordinary tensor over the same memory as one made in inference mode.

    Errors: NotDifferentiableError for tensors that have their numbers elsewhere.
    """
    if not tensor.is_inference():
        return tensor
    if not _holds_its_numbers(tensor):
        raise NotDifferentiableError(f"weights of the type {type(tensor).__name__}")
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(alias, requires_grad=False)
    return alias


def _holds_its_numbers(tensor: torch.Tensor) -> bool:
    """Whether a tensor is memory; others are made of tensors, to which they pass operations on."""
    kind: Any = type(tensor)
    plain: Any = torch.Tensor
    return kind.__torch_dispatch__ is plain.__torch_dispatch__
