"""The proof's figures against a plain computation, its gate, and its page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from hswq_core.errors import HSWQError
from hswq_core.proof import Pair, Proof, compare_latents, proof_page
from hswq_core.proof.page import Pictures
from hswq_core.proof.verdict import Figure


def latents(noise: float, steps: int = 5) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    reference = [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(steps)]
    return reference, [x + noise * torch.randn(x.shape, generator=generator) for x in reference]


def pair(noise: float, *, ssim: float = 0.9, cosine: tuple[float, ...] | None = None) -> Pair:
    found, errors = compare_latents(*latents(noise))
    return Pair("a <cat>", 7, cosine or found, errors, (1e-4, 3e-4), ssim, math.inf if noise == 0 else 30.0)


def test_latents_are_compared_as_numpy_does() -> None:
    reference, candidate = latents(0.3)
    cosine, errors = compare_latents(reference, candidate)
    for step, (one, other) in enumerate(zip(reference, candidate, strict=True)):
        a, b = one.numpy().ravel().astype(np.float64), other.numpy().ravel().astype(np.float64)
        assert cosine[step] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-9)
        assert errors[step] == pytest.approx(((b - a) ** 2).sum() / (a**2).sum(), rel=1e-9)
    assert compare_latents(reference, reference) == ((1.0,) * 5, (0.0,) * 5)
    with pytest.raises(HSWQError, match="differ in number"):
        compare_latents(reference, candidate[1:])


def test_runs_part_ways_in_the_step_in_which_the_cosine_falls() -> None:
    assert pair(0.1, cosine=(0.99, 0.97, 0.90, 0.89)).bifurcated == 3
    assert pair(0.1, cosine=(0.9,)).bifurcated == 1
    assert pair(0.1, cosine=(0.96, 0.92, 0.88)).bifurcated is None, "slowly is not at once"


def test_the_gate() -> None:
    good = Proof("a", "b", (pair(0.01),) * 10)
    assert good.passed and good.verdict.startswith("Passed: mean cosine") and "0 of 10 runs part ways" in good.verdict
    assert not Proof("a", "b", (pair(0.8),) * 10).passed
    parted = pair(0.01, cosine=(1.0, 1.0, 1.0, 1.0, 0.94))
    assert Proof("a", "b", (*[pair(0.01)] * 9, parted)).passed
    assert not Proof("a", "b", (*[pair(0.01)] * 8, parted, parted)).passed
    same = Proof("a", "b", (pair(0.0, ssim=1.0),) * 3)
    assert same.passed and same.identical and "wrong one is connected" in same.verdict
    assert same.figures()["cosine"].as_dict() == {"mean": 1.0, "low": 1.0, "high": 1.0, "median": 1.0}


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(200):
        figure = Figure.of(torch.randn(30, generator=generator).tolist())
        hits += figure.low <= 0 <= figure.high
    assert 176 <= hits <= 198, hits


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "input", "polyline", "text"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("polyline", "text"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_elsewhere() -> None:
    proof = Proof("a.safetensors", "b.safetensors", (pair(0.01, ssim=0.99), pair(0.5, ssim=0.2)), {"steps": 5})
    page = proof_page(proof, [Pictures("data:1", "data:2", "data:3"), Pictures("data:4", "data:5", "data:6")])
    reader = _Reader()
    reader.feed(page)
    assert reader.open == [] and all(source.startswith("data:") for source in reader.sources)
    assert reader.sources[0] == "data:4", "the worst pair first"
    assert "a &lt;cat&gt;" in page and "<cat>" not in page and proof.verdict[:20] in page
    assert json.loads(json.dumps(proof.as_dict()))["hswq.kind"] == "proof"
