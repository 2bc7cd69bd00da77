"""What a proof samples: prompts, seeds, and the sampler's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..version import __version__


@dataclass(frozen=True)
class ProofPlan:
    """Attributes:
    prompts: used in turn.
    count: how many pairs to make.
    first_seed: each further pair adds one.
    negative, steps, cfg, sampler, scheduler: as KSampler has them.
    width, height: in pixels.
    """

    prompts: Sequence[str]
    negative: str
    count: int
    first_seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    width: int
    height: int

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Prompt and seed of each pair."""
        return [(self.prompts[n % len(self.prompts)], self.first_seed + n) for n in range(self.count)]

    def settings(self, device: str) -> dict[str, object]:
        """What proof.json says of how the pairs were made. Args: device: where the models run."""
        return {
            "steps": self.steps, "cfg": self.cfg, "sampler": self.sampler, "scheduler": self.scheduler,
            "width": self.width, "height": self.height, "negative": self.negative, "first_seed": self.first_seed,
            "hswq": __version__, "torch": torch.__version__, "device": device,
        }  # fmt: skip
