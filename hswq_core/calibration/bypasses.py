"""Layers that a host computes without calling their modules, as fused operations do: hooks do not see them.

What a run calls differs for good reasons: images have other sizes, texts other lengths, prompt and negative prompt are
one call or two, caches skip calls or blocks, a block is left out for guidance, a branch runs only with an image to
follow, an expert only for its tokens. In all of these a module of the model runs as a whole or not at all. So a layer
is compared with its *peers* alone: layers of the same innermost module (an attention, a feed-forward) with as many
rows, in the runs before this one or in each of its calls. If peers were called more often, the layer was bypassed.

Calls are counted and not rows: merging tokens, or giving an attention more to look at, changes the rows of some layers
of a module. Nothing is said of layers directly in the model, which may take an input that only some runs have, nor of
those without a peer; layers that never run are told by their share of the weights (``coverage``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LayerUse:
    """How often hooks saw a layer called in one run, and with how many rows in all."""

    calls: int
    rows: int


def bypassed_layer(root: torch.nn.Module, seen: Mapping[str, LayerUse], earlier: Mapping[str, int]) -> str:
    """The first layer that was computed without its module in a part of a run, or in all of it; empty for none.

    Args:
        root: the diffusion model.
        seen: all of its layers by name, those without calls, too.
        earlier: the rows of each layer in all runs before this one; empty in a session's first.
    """
    for module, members in _by_module(root, seen).items():
        beside = [name for name in seen if name.startswith(f"{module}.")]
        most = max(seen[name].calls for name in beside)
        for name in members:
            if seen[name].calls < most and any(_are_peers(name, peer, seen, earlier) for peer in beside):
                return name
    return ""


def _are_peers(name: str, peer: str, seen: Mapping[str, LayerUse], earlier: Mapping[str, int]) -> bool:
    """Whether a layer that was called more often in this run has the same rows otherwise."""
    ours, theirs = seen[name], seen[peer]
    if theirs.calls <= ours.calls:
        return False
    if name in earlier and peer in earlier:
        return earlier[name] == earlier[peer]
    return ours.rows * theirs.calls == theirs.rows * ours.calls > 0


def _by_module(root: torch.nn.Module, layers: Iterable[str]) -> dict[str, list[str]]:
    """The layers by their innermost module that has several; those that are directly in the model are left out.

    Lists do not count: their members may be blocks, each of which runs or not.
    """
    sizes: dict[str, int] = {}
    for name in layers:
        for module in _around(name):
            sizes[module] = sizes.get(module, 0) + 1
    found: dict[str, list[str]] = {}
    for name in layers:
        for module in _around(name):
            if sizes[module] > 1 and not isinstance(root.get_submodule(module), torch.nn.ModuleList):
                found.setdefault(module, []).append(name)
                break
    return found


def _around(name: str) -> list[str]:
    """The modules around a layer within the model, from the innermost."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
