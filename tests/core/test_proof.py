"""The proof's figures against a plain computation, its gate, and its page."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hswq_core.errors import HSWQError
from hswq_core.proof import Pair, Proof, compare_latents, proof_page
from hswq_core.proof import image_metrics as metrics_module
from hswq_core.proof.image_metrics import image_metrics
from hswq_core.proof.page import Pictures
from hswq_core.proof.pair_images import MAX_BYTES, MIN_PAIRS, PairImages
from hswq_core.proof.runs import Run, UnfinishedRuns
from hswq_core.proof.verdict import Figure
from loader.clip_metrics import ClipMetrics


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
    assert good.passed and good.gate.startswith("Passed: mean cosine") and "0 of 10 runs part ways" in good.gate
    assert not Proof("a", "b", (pair(0.8),) * 10).passed
    parted = pair(0.01, cosine=(1.0, 1.0, 1.0, 1.0, 0.94))
    assert Proof("a", "b", (*[pair(0.01)] * 9, parted)).passed
    assert not Proof("a", "b", (*[pair(0.01)] * 8, parted, parted)).passed
    same = Proof("a", "b", (pair(0.0, ssim=1.0),) * 3)
    assert same.passed and same.identical and "wrong one is connected" in same.verdict.text
    assert same.figures()["cosine"].as_dict() == {"mean": 1.0, "low": 1.0, "high": 1.0, "median": 1.0}


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(200):
        figure = Figure.of(torch.randn(30, generator=generator).tolist())
        hits += figure.low <= 0 <= figure.high
    assert 176 <= hits <= 198, hits


def noisy(size: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=generator), (size, size), mode="bicubic")
    picture = smooth.movedim(1, -1).clamp(0, 1)
    return picture, (picture + noise * torch.randn(picture.shape, generator=generator)).clamp(0, 1)


def test_further_metrics_of_pictures_where_their_packages_are() -> None:
    same, near, far = (image_metrics(*noisy(192, noise)) for noise in (0.0, 0.02, 0.2))
    assert same == pytest.approx({"ms_ssim": 1.0, "haarpsi": 1.0}, abs=1e-4), "LPIPS has no weights here"
    for name in ("ms_ssim", "haarpsi"):
        assert 1 > near[name] > far[name] > 0
    assert image_metrics(*noisy(100, 0.1)).keys() == {"haarpsi"}, "too small for five scales"
    assert image_metrics(*noisy(8, 0.1)) == {}


def test_lpips_uses_weights_that_are_at_hand_and_downloads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It imports Triton, which the tests of kernels are to import first, in a mode of its own.
    from torchvision.models import alexnet

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.download_url_to_file", forbidden)
    hub = Path(torch.hub.get_dir())
    torch.hub.set_dir(tmp_path)
    metrics_module._lpips.cache_clear()
    try:
        assert "lpips" not in image_metrics(*noisy(64, 0.1))
        (tmp_path / "checkpoints").mkdir()
        torch.manual_seed(0)
        torch.save(alexnet().state_dict(), tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
        metrics_module._lpips.cache_clear()
        assert image_metrics(*noisy(64, 0.0))["lpips"] == 0
        assert image_metrics(*noisy(64, 0.2))["lpips"] > image_metrics(*noisy(64, 0.02))["lpips"] > 0
    finally:
        torch.hub.set_dir(hub)
        metrics_module._lpips.cache_clear()


class FakeVision:
    def encode_image(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"image_embeds": pictures.mean((1, 2))}


class FakeClip:
    def __init__(self, parts: list[str], pooled: torch.Tensor | None) -> None:
        self.cond_stage_model = SimpleNamespace(**dict.fromkeys(parts))
        self.pooled = pooled

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens(self, _tokens: str, return_pooled: bool) -> tuple[None, torch.Tensor | None]:
        return None, self.pooled


def test_clip_scores_need_a_text_encoder_of_the_same_space() -> None:
    red, green = (torch.tensor(colour).expand(1, 8, 8, 3) for colour in ((1.0, 0.0, 0.0), (0.6, 0.8, 0.0)))
    text = torch.tensor([[2.0, 0.0, 0.0]])
    found = ClipMetrics(FakeVision(), FakeClip(["clip_l", "clip_g"], text)).of_pair("red", red, green)
    assert found == pytest.approx({"clip_image": 0.6, "clip_score": -0.4})
    for clip in (FakeClip(["clip_l"], text), FakeClip(["clip_g"], None), FakeClip(["clip_g"], torch.ones(1, 4))):
        assert ClipMetrics(FakeVision(), clip).of_pair("red", red, green).keys() == {"clip_image"}


def test_what_was_measured_is_a_figure() -> None:
    measured = replace(pair(0.01), metrics={"ms_ssim": 0.9, "lpips": 0.1})
    found = Proof("a", "b", (measured, replace(measured, metrics={"ms_ssim": 0.7}))).figures()
    assert list(found) == ["cosine", "latent_error", "model_error", "ssim", "ms_ssim", "lpips"]
    assert found["ms_ssim"].mean == pytest.approx(0.8) and found["lpips"].mean == pytest.approx(0.1)
    assert measured.as_dict()["lpips"] == 0.1


def run(seed: int) -> Run:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    entry = {"0": x, "1": torch.tensor([7.0, 7.0]), "context": torch.ones(2, 3), "y": None, "extra": [1, "a"]}
    return Run([x, x + 1], [(entry, x * 2), (entry | {"1": torch.tensor([3.0, 3.0])}, x * 3)], (1e-3, 2e-3))


def test_runs_of_an_unfinished_proof_are_found_again_and_no_others(tmp_path: Path) -> None:
    made: list[int] = []

    def make(seed: int) -> Callable[[], Run]:
        def new() -> Run:
            made.append(seed)
            return run(seed)

        return new

    first = UnfinishedRuns(tmp_path, ["model", 4])
    first.run("reference_0", make(0))
    found = UnfinishedRuns(tmp_path, ["model", 4]).run("reference_0", make(0))
    assert made == [0]
    for one, other in zip(found.latents, run(0).latents, strict=True):
        assert torch.equal(one, other)
    for (entry, output), (expected, given) in zip(found.calls, run(0).calls, strict=True):
        assert torch.equal(output, given) and entry.keys() == expected.keys() and entry["extra"] == [1, "a"]
        assert all(torch.equal(entry[key], expected[key]) for key in ("0", "1", "context")) and entry["y"] is None
    assert found.forced_error == (1e-3, 2e-3)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    UnfinishedRuns(tmp_path, ["model", 4]).run("reference_0", make(0))
    assert made == [0, 0], "a damaged file is made again"
    other = UnfinishedRuns(tmp_path, ["another model", 4])
    assert not list(tmp_path.iterdir()), "what another proof left is of no use"
    other.run("reference_0", make(1))
    other.remove()
    assert made == [0, 0, 1] and not list(tmp_path.iterdir())


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
    assert "a &lt;cat&gt;" in page and "<cat>" not in page and proof.verdict.text in page
    assert proof.gate in html.unescape(page)
    assert json.loads(json.dumps(proof.as_dict()))["hswq.kind"] == "proof"


def test_kept_runs_are_not_mapped(tmp_path: Path) -> None:
    """Windows does not remove a file that is mapped."""
    made = UnfinishedRuns(tmp_path, "x").run("a", lambda: Run([torch.ones(64, 64)]))
    loaded = UnfinishedRuns(tmp_path, "x").run("a", lambda: pytest.fail("it is there"))
    assert torch.equal(loaded.latents[0], made.latents[0])
    if (maps := Path("/proc/self/maps")).exists():
        assert str(tmp_path) not in maps.read_text()


def test_pairs_are_kept_one_by_one_as_far_as_there_is_room() -> None:
    rows = [torch.full((2, 3, 4, 3), float(number)) for number in range(6)]
    for most, kept in ((MAX_BYTES, 6), (5 * rows[0].nbytes, 5), (0, MIN_PAIRS)):
        shown = PairImages(6, most)
        for row in rows:
            shown.add(row)
        assert torch.equal(shown.images, torch.cat(rows[:kept]))
