"""One prompt and one seed, sampled by two models from the same noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import HSWQError

DROP = 0.05
"""When the cosine of the latents falls by more than this in one step, the runs have parted ways: they bifurcate."""


@dataclass(frozen=True)
class Pair:
    """How far a candidate's run is from the reference's.

    Attributes:
        cosine, relative_error: of the latents after each step: <a, b> / |a| |b|, and |b - a|^2 / |a|^2.
        forced_error: |f_b(x) - f_a(x)|^2 / |f_a(x)|^2 of the models' outputs on the reference's own inputs, by call:
            what rounding does, free of chaos. Empty where the inputs cannot be given to a model again.
        ssim, psnr: of the images; ``psnr`` is infinite for equal ones.
        metrics: further similarities of the images, by name; those that could be computed.
    """

    prompt: str
    seed: int
    cosine: tuple[float, ...]
    relative_error: tuple[float, ...]
    forced_error: tuple[float, ...]
    ssim: float
    psnr: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def bifurcated(self) -> int | None:
        """The step, from 1, in which the runs part ways; ``None`` if they never do."""
        before = 1.0
        for number, value in enumerate(self.cosine, 1):
            if before - value > DROP:
                return number
            before = value
        return None

    @property
    def mean_cosine(self) -> float:
        """Over the steps."""
        return sum(self.cosine) / len(self.cosine)

    @property
    def latent_error(self) -> float:
        """Of the final latents."""
        return self.relative_error[-1]

    @property
    def model_error(self) -> float | None:
        """The mean of ``forced_error`` over the calls."""
        return sum(self.forced_error) / len(self.forced_error) if self.forced_error else None

    def value(self, figure: str) -> float | None:
        """What goes into a figure of all pairs, by its name; ``None`` where it was not measured."""
        own = {
            "cosine": self.mean_cosine,
            "latent_error": self.latent_error,
            "model_error": self.model_error,
            "ssim": self.ssim,
        }
        return own[figure] if figure in own else self.metrics.get(figure)

    def as_dict(self) -> dict[str, object]:
        """For JSON, which has no infinity."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "cosine": list(self.cosine),
            "relative_error": list(self.relative_error),
            "forced_error": list(self.forced_error),
            "bifurcated": self.bifurcated,
            "ssim": self.ssim,
            "psnr": None if math.isinf(self.psnr) else self.psnr,
            **self.metrics,
        }


def compare_latents(
    reference: Sequence[torch.Tensor], candidate: Sequence[torch.Tensor]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Cosine and relative squared error of latents by step, in float64.

    Errors: HSWQError when they differ in number or shape.
    """
    if [t.shape for t in reference] != [t.shape for t in candidate] or not reference:
        raise HSWQError("the models' latents differ in number or shape", remedy="Compare models of one architecture")
    cosines, errors = [], []
    for one, other in zip(reference, candidate, strict=True):
        a, b = one.double().flatten(), other.double().flatten()
        sizes = math.sqrt(float(a @ a) * float(b @ b))
        cosines.append(1.0 if torch.equal(a, b) else float(a @ b) / max(sizes, 1e-300))
        errors.append(relative_error(a, b))
    return tuple(cosines), tuple(errors)


def relative_error(reference: torch.Tensor, candidate: torch.Tensor) -> float:
    """|b - a|^2 / |a|^2, in float64."""
    a, b = reference.double(), candidate.double()
    return float((b - a).square().sum()) / max(float(a.square().sum()), 1e-300)
