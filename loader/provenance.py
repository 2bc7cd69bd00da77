"""Where a MODEL comes from: the file that its loader opened, and the patches on top of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.utils
import torch

_FILE = "hswq_file"
_LAYERS = "diffusion_model."
Prompt = Mapping[str, Mapping[str, Any]]
"""The running workflow as the server has it: nodes by id, each with ``inputs`` that are values or [id, output]."""


def source_of(prompt: Prompt | None, node: str | None, is_file: Callable[[str], str | None]) -> str:
    """The file behind a node's ``model`` input, or nothing when there is none, or more than one, as behind a merge."""
    found = sources_of(prompt, node, is_file, "model")
    return found[0] if len(found) == 1 else ""


def sources_of(
    prompt: Prompt | None, node: str | None, is_file: Callable[[str], str | None], socket: str, begin: str = ""
) -> list[str]:
    """The files that the loaders behind a node's input open, as "LIST/NAME"; of a merge first that of its first model.

    Args:
        is_file: gives the list that has a file of this name, or ``None``.
        socket: what the input is named, and those through which it is followed: ``model``, ``clip`` or ``vae``.
        begin: what the input is named, if otherwise.
    """
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = [str(link[0]) for link in reversed(_links(prompt, node, begin or socket))]
    while prompt and waiting:
        node = waiting.pop()
        if node in seen or node not in prompt:
            continue
        seen.add(node)
        # A loader whose path is connected opens that, and not the file that it shows. What comes through the path is a
        # file that was made of another model (``opened_file`` knows it).
        by_path = bool(_links(prompt, node, "path"))
        texts = [] if by_path else _texts(prompt[node])
        files = [f"{folder}/{name}" for name in texts if (folder := is_file(name))]
        found |= dict.fromkeys(files)
        # Models flow through inputs named for them; switches and reroutes name theirs otherwise.
        links = _links(prompt, node, socket) or ([] if files or by_path else _links(prompt, node, ""))
        waiting += [str(link[0]) for link in reversed(links)]
    return list(found)


def _links(prompt: Prompt | None, node: str | None, named: str) -> list[Any]:
    inputs = (prompt or {}).get(str(node), {}).get("inputs", {})
    return [v for k, v in inputs.items() if isinstance(v, list) and len(v) == 2 and named in k.lower()]


def _texts(node: Mapping[str, Any]) -> list[str]:
    return [value for value in node.get("inputs", {}).values() if isinstance(value, str)]


def upstream_of(prompt: Prompt | None, node: str | None) -> dict[str, Mapping[str, Any]]:
    """A node and all that it depends on, by id."""
    found: dict[str, Mapping[str, Any]] = {}
    waiting = [str(node)]
    while prompt and waiting:
        each = waiting.pop()
        if each in prompt and each not in found:
            found[each] = prompt[each]
            waiting += [str(link[0]) for link in _links(prompt, each, "")]
    return found


def upstream_of_inputs(prompt: Prompt | None, node: str | None, sockets: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """All that some of a node's inputs depend on, by id."""
    found: dict[str, Mapping[str, Any]] = {}
    for link in (link for socket in sockets for link in _links(prompt, node, socket)):
        found |= upstream_of(prompt, str(link[0]))
    return found


def remember_file(model: Any, path: Path) -> None:
    """Let a MODEL, and all its clones, say which file it was opened from."""
    model.set_attachments(_FILE, path)


def opened_file(model: Any) -> Path | None:
    """The file that a MODEL of our loaders was opened from."""
    return getattr(model, "attachments", {}).get(_FILE)


def patches_of(model: Any) -> str:
    """A digest of what was put on top of the diffusion model's weights (LoRA, merges); empty for nothing."""
    patches = {k: v for k, v in model.patches.items() if k.startswith(_LAYERS) and v} | unwritable_patches(model)
    if not patches:
        return ""
    hashed = hashlib.sha256()
    for key in sorted(patches):
        hashed.update(key.encode())
        _update(hashed, patches[key])
    return hashed.hexdigest()[:16]


def unwritable_patches(model: Any) -> dict[str, list[Any]]:
    """What changes a MODEL's layers without being added to their weights, so that no file can hold it.

    A LoRA in bypass mode is computed beside its layer, and other tools put a module of their own in a layer's place.

    Returns: the tensors of each and what tells two apart, by the name of the layer.
    """
    found: dict[str, list[Any]] = {}
    for key, injections in getattr(model, "injections", {}).items():
        for layer, (adapter, strength) in _adapters(injections).items():
            if layer.startswith(_LAYERS):
                found[f"{key} {layer}"] = [strength, adapter]
    for name, functions in getattr(model, "weight_wrapper_patches", {}).items():
        if name.startswith(_LAYERS):
            found[name] = [len(functions)]
    backup = getattr(model, "object_patches_backup", {})
    for name, instead in model.object_patches.items():
        if not name.startswith(_LAYERS) or not isinstance(instead, torch.nn.Module):
            continue  # settings, and functions that compute the same
        own = backup[name] if name in backup else comfy.utils.get_attr(model.model, name)
        held = {id(tensor) for tensor in own.state_dict(keep_vars=True).values()}
        more = [each for each in instead.state_dict(keep_vars=True).values() if id(each) not in held]
        if more:  # a compiled module has the tensors of the one that it compiles
            found[name] = [type(instead).__name__, *more]
    return found


def _adapters(injections: Iterable[Any]) -> dict[str, tuple[Any, float]]:
    """Those of ComfyUI's manager of adapters in bypass mode, by layer; it is known to its injections alone."""
    cells = [cell for each in injections for cell in getattr(each.inject, "__closure__", None) or ()]
    managers = [vars(cell.cell_contents).get("adapters") for cell in cells if hasattr(cell.cell_contents, "__dict__")]
    return {name: each for adapters in managers if isinstance(adapters, dict) for name, each in adapters.items()}


def _update(hashed: Any, value: Any) -> None:
    """Numbers, and a few elements of every tensor, wherever they are held."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().flatten()
        hashed.update(str(tuple(value.shape)).encode())
        if len(flat):
            hashed.update(flat[:: max(1, len(flat) // 8)].float().cpu().numpy().tobytes())
    elif isinstance(value, (list, tuple)):
        for each in value:
            _update(hashed, each)
    elif isinstance(value, (int, float, str)):
        hashed.update(repr(value).encode())
    elif hasattr(value, "weights"):  # ComfyUI's weight adapters
        hashed.update(type(value).__name__.encode())
        _update(hashed, value.weights)
