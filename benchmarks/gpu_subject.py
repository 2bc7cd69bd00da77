"""What the benchmark of a card measures: a checkpoint, how pictures are drawn with it, and what the card holds."""

from __future__ import annotations

import statistics as stats
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import inprocess_comfy
from .quantize import make_checkpoint


@dataclass(frozen=True)
class Subject:
    """A checkpoint and a way to draw.

    Attributes:
        folder: where files are written.
        size: of pictures, in pixels.
        positive, negative: the conditioning of every picture.
    """

    source: Path
    folder: Path
    size: int
    steps: int
    positive: list[Any]
    negative: list[Any]

    def draw(self, model: Any, images: int = 1, callback: Callable[..., None] | None = None) -> float:
        """Seconds that sampling takes."""
        from hswq.loader.latents import empty_latent  # type: ignore[import-not-found]
        from hswq.loader.sample import sample  # type: ignore[import-not-found]

        synchronize()
        started = time.perf_counter()
        sample(
            model, self.positive, self.negative, empty_latent(model, images, self.size, self.size), steps=self.steps,
            cfg=7.0, sampler="euler", scheduler="normal", seed=0, callback=callback,
        )  # fmt: skip
        synchronize()
        return time.perf_counter() - started

    def in_steps(self, model: Any, images: int = 1) -> float:
        """Seconds of the steps alone, without the first and what is done once when the run ends."""
        marks: list[float] = []

        def mark(*_: Any) -> None:
            synchronize()
            marks.append(time.perf_counter())

        self.draw(model, images, mark)
        return marks[-1] - marks[0]

    def alternated(self, models: dict[str, Any], images: int, rounds: int = 3) -> dict[str, float]:
        """Median seconds of the steps by model, one after the other in every round, the first round thrown away."""
        turns: dict[str, list[float]] = {}
        for _ in range(rounds + 1):
            for name, model in models.items():
                turns.setdefault(name, []).append(self.in_steps(model, images))
        return {name: stats.median(seconds[1:]) for name, seconds in turns.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def allocated() -> int:
    """Bytes on the card, now."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Gives the most bytes on the card since then."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def sdxl(folder: Path) -> Subject:
    source = folder / "random_sdxl.safetensors"
    if not source.exists():
        make_checkpoint(source, 1.0)

    def conditioning(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(1, 1280, generator=generator)
        return [[torch.randn(1, 77, 2048, generator=generator), {"pooled_output": pooled}]]

    return Subject(source, folder, 1024, 12, conditioning(0), conditioning(1))


def small(folder: Path) -> Subject:
    from hswq.loader.sample import encode  # type: ignore[import-not-found]

    source = inprocess_comfy.TINY_MODEL / "hswq_tiny.safetensors"
    clip = inprocess_comfy.LoadedModel(source).clip
    return Subject(source, folder, 256, 4, encode(clip, ["a"]), encode(clip, [""]))
