"""Models run as they are written while they are measured: module by module, each called by its own ``forward``.

ComfyUI and torch have faster ways that compute the same: compiled graphs, graphs of CUDA, functions that compute a
layer and what is before it at once. Hooks see nothing of those, gradients do not pass some of them, and a graph that
was recorded with hooks would go on without. Each is switched off where this version has it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import comfy.cli_args
import comfy.ops
import torch

from .compat import replace_attribute

_SWITCHES = ("disable_comfy_compiler", "disable_cuda_graphs")
"""ComfyUI's, which it reads in every call of a model."""
_FUSED, _ACTIVATIONS = "linear_input_act", "INPUT_ACT_EAGER"
"""ComfyUI's function that computes an activation and the Linear layer behind it, and its plain activations by name."""


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Meanwhile nothing runs a model's layers but the modules themselves. May be nested.

    After an error what ComfyUI has fetched ahead for layers that did not run is given back: ComfyUI itself does so
    when a node ends, and a node may go on by another way.
    """
    with contextlib.ExitStack() as undo:
        undo.enter_context(_uncompiled())
        for name in _SWITCHES:
            replace_attribute(undo, comfy.cli_args.args, name, True)
        activations, fused = (getattr(comfy.ops, name, None) for name in (_ACTIVATIONS, _FUSED))
        if activations is not None and fused is not None:
            replace_attribute(undo, comfy.ops, _FUSED, _through_the_module(activations, fused))
        try:
            yield
        except BaseException:
            _drop_prefetched()
            raise


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    stance = getattr(torch.compiler, "set_stance", None)
    return contextlib.nullcontext() if stance is None else stance("force_eager")


def _through_the_module(
    activations: dict[str, Callable[[torch.Tensor], torch.Tensor]], fused: Callable[..., torch.Tensor]
) -> Callable[..., torch.Tensor]:
    def linear_input_act(linear: torch.nn.Module, x: torch.Tensor, input_act: str, *args: Any, **named: Any) -> Any:
        if args or named:  # what a later version may have added
            return fused(linear, x, input_act, *args, **named)
        return linear(activations[input_act](x))

    return linear_input_act


def _drop_prefetched() -> None:
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("comfy.model_prefetch").cleanup_prefetch_queues()
