"""All pairs together: figures with intervals, the verdict, and whether the candidate passes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch

from .pair import Pair
from .sentence import Sizes, Verdict, verdict_of_images

MIN_MEAN_COSINE = 0.98
"""Of the latents, the mean over steps and pairs: what a candidate must reach."""
MAX_BIFURCATED = 0.1
"""The share of pairs whose runs may part ways."""
_RESAMPLES = 2000
FIGURES = {
    "cosine": "cosine of the latents, mean over the steps",
    "latent_error": "relative squared error of the final latents",
    "latent_mse": "mean squared error of the final latents",
    "model_error": "relative squared error of the model's output on the reference's inputs",
    "ssim": "SSIM of the images",
    "ms_ssim": "MS-SSIM of the images",
    "haarpsi": "HaarPSI of the images",
    "lpips": "LPIPS (AlexNet) of the images",
    "clip_image": "CLIP's cosine of the two images",
    "clip_score": "CLIP's cosine of image and prompt, the candidate's less the reference's",
}
"""What a proof may measure, in its order, and how a reader is told. Errors and LPIPS are 0 for equal models."""


@dataclass(frozen=True)
class Figure:
    """A figure of all pairs: its mean with a 95 % interval by bootstrap over the pairs, and its median."""

    mean: float
    low: float
    high: float
    median: float

    @staticmethod
    def of(values: Sequence[float]) -> Figure:
        """Deterministic: the resamples are the same for the same number of pairs."""
        data = torch.tensor(values, dtype=torch.float64)
        chosen = torch.randint(len(data), (_RESAMPLES, len(data)), generator=torch.Generator().manual_seed(0))
        means = data[chosen].mean(1).sort().values
        low, high = means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES) - 1]
        return Figure(float(data.mean()), float(low), float(high), statistics.median(values))

    def as_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "median": self.median}


@dataclass(frozen=True)
class ProvedFile:
    """The file of a model that was compared.

    Attributes:
        sha256: in capitals, as sites show it.
        format: what its layers are in.
        predicted_error: of the model's output, as the file says of itself.
    """

    name: str
    bytes: int
    sha256: str
    format: str = ""
    predicted_error: float | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.bytes:,} bytes, SHA256 {self.sha256}"


@dataclass(frozen=True)
class Proof:
    """A candidate compared with a reference.

    Attributes:
        settings: how the pairs were made, so that anyone can repeat them.
        files: of ``reference`` and ``candidate``, where a model is one file and nothing on top of it.
    """

    reference: str
    candidate: str
    pairs: tuple[Pair, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, ProvedFile] = field(default_factory=dict)

    @property
    def bifurcated(self) -> int:
        """Pairs whose runs part ways."""
        return sum(pair.bifurcated is not None for pair in self.pairs)

    @property
    def passed(self) -> bool:
        """Whether latents stay together: their mean cosine, and the share of pairs that part ways."""
        together = self.figures()["cosine"].mean >= MIN_MEAN_COSINE
        return together and self.bifurcated <= MAX_BIFURCATED * len(self.pairs)

    @property
    def identical(self) -> bool:
        """Whether nothing differs at all: the candidate is the reference."""
        return all(pair.latent_error == 0 for pair in self.pairs)

    def figures(self) -> dict[str, Figure]:
        """By the names of ``FIGURES``, in their order: those that were measured of every pair, or of some."""
        found = {}
        for name in FIGURES:
            values = [value for pair in self.pairs if (value := pair.value(name)) is not None]
            if values:
                found[name] = Figure.of(values)
        return found

    @property
    def sizes(self) -> Sizes | None:
        """Of both files, where both models are one."""
        files = self.files
        return (files["reference"].bytes, files["candidate"].bytes) if len(files) == 2 else None

    @property
    def verdict(self) -> Verdict:
        """In one sentence."""
        found = verdict_of_images([pair.ssim for pair in self.pairs], self.sizes, same_model=self.identical)
        return found if self.passed or found.tone == "bad" else replace(found, tone="poor")

    @property
    def gate(self) -> str:
        """Whether the candidate passes, by what, and what was averaged."""
        figures, count = self.figures(), len(self.pairs)
        cosine = figures["cosine"]
        said = [
            f"mean cosine of the latents {cosine.mean:.4f} (95 %: {cosine.low:.4f} to {cosine.high:.4f}) over all "
            f"steps of {count} pair{'s' if count > 1 else ''}, where at least {MIN_MEAN_COSINE} is asked",
            f"{self.bifurcated} of {count} runs part ways, where at most {MAX_BIFURCATED:.0%} may",
        ]
        if "model_error" in figures:
            said.append(f"the model's output differs by {figures['model_error'].median:.2e} (median)")
        return f"{'Passed' if self.passed else 'Failed'}: {'; '.join(said)}."

    def as_dict(self) -> dict[str, object]:
        """proof.json; see docs/formats.md."""
        return {
            "hswq.kind": "proof",
            "format_version": 1,
            "reference": self.reference,
            "candidate": self.candidate,
            "files": {side: asdict(file) for side, file in self.files.items()},
            "passed": self.passed,
            "identical": self.identical,
            "verdict": self.verdict.text,
            "tone": self.verdict.tone,
            "gate": {"said": self.gate, "least_mean_cosine": MIN_MEAN_COSINE, "most_bifurcated": MAX_BIFURCATED},
            "bifurcated": self.bifurcated,
            "figures": {name: figure.as_dict() for name, figure in self.figures().items()},
            "settings": dict(self.settings),
            "pairs": [pair.as_dict() for pair in self.pairs],
        }
