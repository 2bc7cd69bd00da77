"""The samplers and schedulers of this machine's ComfyUI, with those of its packs: the server itself knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hswq_core.errors import nearest_name

from .comfyui import ServerError
from .lines import Mistake
from .worker import Worker, comfyui_of_this_node

Names = Mapping[str, Sequence[str]]
"""By a recipe's key."""
AskNames = Callable[[Sequence[str]], "Names | None"]
_INPUTS = {"sampler": "sampler_name", "scheduler": "scheduler"}
EVERYWHERE = {"sampler": ("euler",), "scheduler": ("normal",)}
"""The defaults: no server is started to ask for them."""


def names_of_comfyui(arguments: Sequence[str]) -> Names | None:
    """The names, or ``None`` where no ComfyUI is at hand.

    Args:
        arguments: more of its command line.

    Errors: ServerError when it does not start, or has not this pack: no task could be done.
    """
    try:
        worker = Worker(comfyui_of_this_node(), [], 1, arguments)
    except ServerError:
        return None
    try:
        inputs = worker.describe("KSampler")["input"]["required"]
    finally:
        worker.close()
    return {key: _choices(inputs[name]) for key, name in _INPUTS.items()}


def wrong_names(drawing: Mapping[str, object], arguments: Sequence[str], ask: AskNames | None) -> list[Mistake]:
    """Samplers and schedulers that ComfyUI does not have.

    Args:
        drawing: the tables with such keys, by name.
    """
    asked = [(table, key, str(getattr(values, key))) for table, values in drawing.items() for key in EVERYWHERE]
    unsure = [each for each in asked if each[2] not in EVERYWHERE[each[1]]]
    names = (ask(arguments) if ask and unsure else None) or {}
    return [
        ((table, key), f"{name!r} is no {key} of this ComfyUI" + _hint(name, names[key]))
        for table, key, name in unsure
        if key in names and name not in names[key]
    ]


def _hint(name: str, names: Sequence[str]) -> str:
    guess = nearest_name(name, names)
    return f"; did you mean {guess!r}?" if guess else ""


def _choices(described: Sequence[Any]) -> Sequence[str]:
    """Of an input, in the older form and in the newer."""
    return described[0] if isinstance(described[0], list) else described[1]["options"]
