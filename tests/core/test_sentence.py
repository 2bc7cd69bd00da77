"""The verdict's sentence: what it counts, its worst case, its sizes, and its colour."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hswq_core.proof import Pair, Proof
from hswq_core.proof.levels import LEVELS, level_of_error, level_of_ssim
from hswq_core.proof.sentence import in_digits, said_of_sizes, verdict_of_error, verdict_of_images
from hswq_core.proof.verdict import ProvedFile

SDXL = (6_900_000_000, 4_400_000_000)


@pytest.mark.parametrize(
    ("ssim", "text", "tone"),
    [
        ([0.99, 0.98, 0.975, 0.97], "Practically the same image in 4 of 4 (worst SSIM 0.97).", "good"),
        ([0.97], "Practically the same image (SSIM 0.97).", "good"),
        ([1.0, 1.0], "Identical image in 2 of 2 (worst SSIM 1.00).", "good"),
        (
            [0.99, 0.2, 0.99, 0.99],
            "Practically the same image in 3 of 4, another one in 1 (worst SSIM 0.20).",
            "bad",
        ),
        (
            [*[0.99] * 24, 0.6],
            "Practically the same image in 24 of 25, a visibly different one in 1 (worst SSIM 0.60).",
            "good",
        ),
    ],
)
def test_images_are_counted_by_level_and_the_worst_is_told(ssim: Sequence[float], text: str, tone: str) -> None:
    found = verdict_of_images(ssim)
    assert (found.text, found.tone) == (text, tone)
    assert verdict_of_images(ssim, SDXL).text == f"{text} 4.4 GB instead of 6.9."
    assert json.loads(json.dumps(found.as_dict()))["text"] == text


def test_levels_go_from_the_best_to_the_worst_and_cover_everything() -> None:
    for better, worse in itertools.pairwise(LEVELS):
        assert better.least_ssim > worse.least_ssim and better.most_error < worse.most_error
        assert level_of_ssim(better.least_ssim) is better and level_of_error(better.most_error) is better
        assert level_of_ssim(math.nextafter(better.least_ssim, -1)) is worse
    assert level_of_ssim(math.nan) is level_of_error(math.nan) is LEVELS[-1], "what cannot be told is not good"


@pytest.mark.parametrize(
    ("ssim", "said"),
    [(1.0, "1.00"), (0.97, "0.97"), (0.979, "0.97"), (0.9996, "0.9996"), (1 - 4e-8, "0.99999996"), (-0.05, "-0.05")],
)
def test_what_is_not_one_does_not_look_like_it(ssim: float, said: str) -> None:
    assert in_digits(ssim) == said


def test_sizes_have_one_unit_and_are_told_where_they_differ() -> None:
    assert said_of_sizes(None) is said_of_sizes((5, 5)) is None
    assert verdict_of_error(1e-6, None, (11_600_000, 7_300_000)).text == (
        "Practically the same image expected (predicted error of the output 1.0e-06). 7.3 MB instead of 11.6."
    )


def test_a_file_that_nobody_looked_at_is_not_judged() -> None:
    found = verdict_of_error(None, None, SDXL)
    assert found.tone is None and found.text.startswith("HSWQ Compare or HSWQ Prove says")


def test_a_proof_that_fails_its_gate_is_never_shown_as_good() -> None:
    pair = Pair("a", 1, (0.9, 0.9), (0.1, 0.1), (), 0.99, 30.0)
    failed = Proof("a", "b", (pair,) * 4)
    assert not failed.passed and failed.verdict.tone == "poor"
    passed = Proof("a", "b", (replace(pair, cosine=(1.0, 0.99)),) * 4)
    assert passed.passed and passed.verdict.tone == "good" and passed.sizes is None
    files = {side: ProvedFile(side, size, "") for side, size in zip(("reference", "candidate"), SDXL, strict=True)}
    assert replace(passed, files=files).verdict.text.endswith(" 4.4 GB instead of 6.9.")
    assert passed.as_dict()["verdict"] == passed.verdict.text


def test_every_phrase_is_translated() -> None:
    words = (Path(__file__).resolve().parents[2] / "web" / "hswq" / "words.js").read_text("utf-8")
    some = [verdict_of_error(None), verdict_of_error(1.0), verdict_of_images([1.0], SDXL, same_model=True)]
    phrases = [phrase for found in some for phrase in (*found.found, found.basis, found.size, found.action) if phrase]
    for level in LEVELS:
        phrases += [(text,) for text in (level.one, level.several, level.others, f"{level.one} expected")]
    for template, *_ in phrases:
        assert words.count(f"        {json.dumps(template)}: ") == 2, template
