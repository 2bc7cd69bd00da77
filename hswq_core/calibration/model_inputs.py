"""A few of the diffusion model's own inputs, kept from real sampling, to measure on what a layer's rounding does.

They are what the model was called with: noisy latent, timestep, conditioning and pooled vector. One run
keeps some evenly spaced over its calls, so over the noise schedule, without knowing beforehand how many
calls there will be: every call at first, then every second, every fourth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

PER_RUN = 8
AT_MOST = 32
TIMESTEP = "1"
"""Inputs are named by position (0 is the latent, 1 the timestep) or by keyword."""

ModelInput = Mapping[str, torch.Tensor]


class InputRecorder:
    """Collects inputs of one run. Nothing is read from the device until ``inputs`` is asked for."""

    def __init__(self) -> None:
        self._kept: list[ModelInput] = []
        self._every, self._calls = 1, 0

    def see(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """One call of the model; tensors among its arguments are its input, all else is the host's business."""
        if self._calls % self._every == 0:
            named = {**{str(i): value for i, value in enumerate(args)}, **kwargs}
            tensors = {k: v.detach() for k, v in named.items() if isinstance(v, torch.Tensor)}
            self._kept.append(_two_of_the_batch(tensors, self._calls))
            if len(self._kept) == 2 * PER_RUN:
                self._kept, self._every = self._kept[::2], self._every * 2
        self._calls += 1

    def inputs(self) -> tuple[ModelInput, ...]:
        """The kept inputs on the CPU; equal tensors (the conditioning of every step) are one tensor."""
        chosen = self._kept if len(self._kept) <= PER_RUN else _middles(self._kept, PER_RUN)
        return share_equal([{k: v.cpu() for k, v in entry.items()} for entry in chosen])


def evenly_spaced(inputs: Sequence[ModelInput], count: int) -> list[ModelInput]:
    """Up to ``count`` of them, evenly spaced over the noise levels."""
    ordered = sorted(inputs, key=_noise)
    return ordered if len(ordered) <= count else _middles(ordered, count)


def join_inputs(a: Sequence[ModelInput], b: Sequence[ModelInput]) -> tuple[ModelInput, ...]:
    """Both together, thinned to ``AT_MOST`` that still cover the noise levels evenly."""
    return tuple(evenly_spaced([*a, *b], AT_MOST))


def share_equal(inputs: Sequence[ModelInput]) -> tuple[ModelInput, ...]:
    """The same inputs, with tensors of equal content replaced by one of them."""
    seen: dict[str, list[torch.Tensor]] = {}

    def shared(name: str, tensor: torch.Tensor) -> torch.Tensor:
        known = seen.setdefault(name, [])
        match = next((t for t in known if t.dtype == tensor.dtype and torch.equal(t, tensor)), None)
        if match is None:
            known.append(tensor)
        return tensor if match is None else match

    return tuple({name: shared(name, tensor) for name, tensor in entry.items()} for entry in inputs)


def _two_of_the_batch(tensors: Mapping[str, torch.Tensor], call: int) -> ModelInput:
    """Copies with two images of the batch: with guidance, one of its halves has the prompt and the other none."""
    batch = len(tensors["0"]) if "0" in tensors else 0
    first = call % max(batch // 2, 1)
    return {
        name: tensor[[first, first + batch // 2]]
        if batch > 2 and len(tensor.shape) and len(tensor) == batch
        else tensor.clone()
        for name, tensor in tensors.items()
    }


def _noise(entry: ModelInput) -> float:
    return float(entry[TIMESTEP].float().mean()) if TIMESTEP in entry else 0.0


def _middles(items: Sequence[ModelInput], count: int) -> list[ModelInput]:
    # From the middle of equal parts, so that one of one is the middle.
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
