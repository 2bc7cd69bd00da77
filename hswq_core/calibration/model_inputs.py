"""A few of the diffusion model's own inputs, kept from real sampling, to measure on what a layer's rounding does.

They are what the model was called with: noisy latent, timestep, conditioning, reference images, numbers, and the
host's options as far as they are plain data. One run keeps some evenly spaced over its calls, so over the noise
schedule, without knowing beforehand how many calls there will be: every call at first, then every second, every fourth.
What is kept says how much of an image it stands for. The last steps have the most error and stand for little, so they
are kept more densely; and each run keeps others, so that no step is always left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from .arguments import Argument, NotRecorded, leaves, map_tensors, recorded, tensors_of

INPUTS_PER_RUN = 8
MAX_INPUTS = 32
LATENT, TIMESTEP = "0", "1"
"""Inputs are named by position or by keyword."""
OPTIONS = "transformer_options"
"""The keyword of the host's options. Those that are not plain data, such as functions, belong to the model that is
called and not to the call."""
FRAMES = "num_video_frames"
"""The keyword by which a model is told that so many elements of its batch, one after another, are one video: Stable
Video Diffusion and SV3D, whose layers mix them. Other families have frames in a dimension of their own."""
TOO_LARGE = {"control": "the control net's output"}
"""Not kept: for SDXL a hundred megabytes a call."""
_MAX_OPTION_ELEMENTS = 1 << 18
WEIGHT = "hswq.weight"
"""The name under which a kept input says, for each element of its batch, of which share of an image's steps it is."""
_MAX_ELEMENTS = 1 << 15
"""Of the latents of one kept input, if it has more than two samples."""
_PARTS = (0.0, 0.2, 0.4, 0.55, 0.7, 0.82, 0.9, 0.96, 1.0)
"""Where the parts of an image begin and end, of each of which one call is kept."""
_CANDIDATES = 4
"""While a run lasts, up to so many times as many calls are held as are kept of it."""
_GOLDEN_RATIO = (5**0.5 - 1) / 2

ModelInput = Mapping[str, Argument]


class InputRecorder:
    """Collects inputs of one run. Nothing is read from the device until ``inputs`` is asked for.

    Args: run: the number of the run.
    """

    def __init__(self, run: int = 0) -> None:
        self._kept: list[ModelInput] = []
        self._every, self._calls, self._place = 1, 0, _place(run)

    def record(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """One call of the model."""
        if self._calls % self._every == 0:
            self._kept.append(_copy_of_some_samples(recorded_call(args, kwargs), self._calls))
            if len(self._kept) == _CANDIDATES * INPUTS_PER_RUN:
                self._kept, self._every = self._kept[::2], self._every * 2
        self._calls += 1

    def inputs(self) -> tuple[ModelInput, ...]:
        """The kept inputs on the CPU; equal tensors (the conditioning of every step) are one tensor."""
        chosen = [_with_weight(self._kept[index], share) for index, share in sorted(self._chosen().items())]
        return share_equal([map_tensors(entry, torch.Tensor.cpu) for entry in chosen])

    def _chosen(self) -> dict[int, float]:
        """Which of the calls that are held to keep, and the share of the image that each stands for."""
        held = len(self._kept)
        if held <= INPUTS_PER_RUN:
            return dict.fromkeys(range(held), 1 / max(held, 1))
        found: dict[int, float] = {}
        for begin, end in pairwise(_PARTS):
            index = min(int((begin + self._place * (end - begin)) * self._calls / self._every), held - 1)
            found[index] = found.get(index, 0.0) + end - begin
        return found


def _with_weight(entry: ModelInput, weight: float) -> ModelInput:
    return {**entry, WEIGHT: torch.full((images_of(entry),), weight)}


def weights_of(entry: ModelInput) -> torch.Tensor:
    """Which share of an image's steps each sample is, float32 [samples].

    Older versions did not say it, and kept as many inputs of a run alike.
    """
    weights = entry.get(WEIGHT)
    frames = frames_of(entry)
    alike = torch.full((samples_of(entry),), 1 / INPUTS_PER_RUN)
    return weights[::frames] if isinstance(weights, torch.Tensor) else alike


def images_of(entry: ModelInput) -> int:
    """The size of the batch: the first dimension of the latent."""
    latent = tensors_of(entry.get(LATENT))
    return len(latent[0]) if latent and latent[0].dim() else 0


def frames_of(entry: ModelInput) -> int:
    """How many elements of the batch are one sample: the frames of a video, or one image."""
    frames = entry.get(FRAMES)
    return frames if type(frames) is int and frames > 0 and images_of(entry) % frames == 0 else 1


def samples_of(entry: ModelInput) -> int:
    """How many images the batch has, or videos where each is several of its elements."""
    return images_of(entry) // frames_of(entry)


def parts_of(entry: ModelInput) -> int:
    """Of how many equal parts the batch is: prompt and negative prompt, or 1 where the host does not say."""
    options = entry.get(OPTIONS)
    parts = options.get("cond_or_uncond") if isinstance(options, dict) else None
    count = len(parts) if isinstance(parts, (list, tuple)) else 0
    return count if count and samples_of(entry) % count == 0 else 1


def not_recorded(entry: ModelInput) -> dict[str, str]:
    """The arguments that could not be kept, and what they are."""
    found = {name: [leaf for leaf in leaves(value) if isinstance(leaf, NotRecorded)] for name, value in entry.items()}
    return {name: missing[0].kind for name, missing in found.items() if missing}


def evenly_spaced(inputs: Sequence[ModelInput], count: int) -> list[ModelInput]:
    """Up to ``count`` of them, evenly spaced over the noise levels."""
    return _evenly_chosen(sorted(inputs, key=_noise), count)


def join_inputs(a: Sequence[ModelInput], b: Sequence[ModelInput], runs: int) -> tuple[ModelInput, ...]:
    """Both together, thinned to ``MAX_INPUTS`` that still cover the noise levels evenly.

    Args: runs: that they are from. Thinned at one place again and again, the same noise levels would be lost.
    """
    return tuple(_evenly_chosen(sorted([*a, *b], key=_noise), MAX_INPUTS, _place(runs)))


def share_equal(inputs: Sequence[ModelInput]) -> tuple[ModelInput, ...]:
    """The same inputs, with tensors of equal content replaced by one of them."""
    seen: dict[tuple[Any, ...], list[torch.Tensor]] = {}

    def shared(tensor: torch.Tensor) -> torch.Tensor:
        known = seen.setdefault((tensor.dtype, tuple(tensor.shape)), [])
        match = next((t for t in known if torch.equal(t, tensor)), None)
        if match is None:
            known.append(tensor)
        return tensor if match is None else match

    return tuple(map_tensors(entry, shared) for entry in inputs)


def recorded_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Argument]:
    """A call of the model by argument, as plain data; tensors are not copied."""
    found: dict[str, Argument] = {}
    for name, value in {**{str(i): value for i, value in enumerate(args)}, **kwargs}.items():
        if name == OPTIONS and isinstance(value, Mapping):
            found[name] = _plain_options(value)
        elif value is not None and name in TOO_LARGE:
            found[name] = NotRecorded(TOO_LARGE[name])
        else:
            found[name] = recorded(value)
    return found


def _plain_options(options: Mapping[Any, Any]) -> dict[str, Argument]:
    """The options that are small plain data; large ones are a cache's, which must not answer for the model again."""
    plain = {name: recorded(value) for name, value in options.items() if isinstance(name, str)}
    return {
        name: value
        for name, value in plain.items()
        if not any(isinstance(leaf, NotRecorded) for leaf in leaves(value))
        and sum(tensor.numel() for tensor in tensors_of(value)) <= _MAX_OPTION_ELEMENTS
        and not name.startswith("prefetch")  # how this run moves its weights
    }


def _copy_of_some_samples(entry: ModelInput, call: int) -> ModelInput:
    """Copies with two images or videos: with guidance, one of the batch's parts has the prompt and the other none.

    Of small images more are copied, since what rounding does differs from image to image.
    """
    batch, frames, samples = images_of(entry), frames_of(entry), samples_of(entry)
    parts = max(2, parts_of(entry))
    each = max(samples // parts, 1)
    size = sum(tensor.numel() for tensor in tensors_of(entry.get(LATENT)))
    count = max(1, min(each, _MAX_ELEMENTS * max(samples, 1) // max(size * parts, 1)))
    images = [(call + image * each // count) % each for image in range(count)]
    chosen = [
        (image + part * each) * frames + frame for part in range(parts) for image in images for frame in range(frames)
    ]

    def chosen_of(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[chosen] if batch > len(chosen) and tensor.dim() and len(tensor) == batch else tensor.clone()

    return map_tensors(dict(entry), chosen_of)


def _noise(entry: ModelInput) -> float:
    times = tensors_of(entry.get(TIMESTEP))
    return float(times[0].float().mean()) if times else 0.0


def _evenly_chosen(items: Sequence[ModelInput], count: int, place: float = 0.5) -> list[ModelInput]:
    """One of each of ``count`` equal parts, from the same place of each: in [0, 1), by default its middle."""
    if len(items) <= count:
        return list(items)
    return [items[int((part + place) * len(items) / count)] for part in range(count)]


def _place(number: int) -> float:
    """Places in [0, 1) that are spread evenly however many there are, the first in the middle."""
    return (0.5 + number * _GOLDEN_RATIO) % 1.0
