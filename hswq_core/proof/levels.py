"""How alike two images are, in words: levels by thresholds, which docs/proof.md takes from pairs that were measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "fair", "poor", "bad"]


@dataclass(frozen=True)
class Level:
    """Attributes:
    name: of the images.
    one, several, others: what a sentence says of the only pair; of some among all, where it begins with them; of some,
        where it goes on with them. ``{0}`` is how many, ``{1}`` of how many.
    tone: how good that is, for a colour.
    least_ssim: of a pair of images on this level.
    most_error: the relative squared error of the model's output at which such images are expected.
    """

    name: str
    one: str
    several: str
    others: str
    tone: Tone
    least_ssim: float
    most_error: float


IDENTICAL = Level(
    "identical", "Identical image", "Identical image in {0} of {1}", "an identical one in {0}",
    "good", 1.0, 0.0,
)  # fmt: skip
SAME = Level(
    "practically the same", "Practically the same image", "Practically the same image in {0} of {1}",
    "practically the same one in {0}", "good", 0.95, 2e-3,
)  # fmt: skip
SMALL = Level(
    "small differences", "Small differences in the image", "Small differences in {0} of {1}",
    "small differences in {0}", "fair", 0.85, 8e-3,
)  # fmt: skip
VISIBLE = Level(
    "visibly different", "Visibly different image", "Visibly different image in {0} of {1}",
    "a visibly different one in {0}", "poor", 0.5, 4e-2,
)  # fmt: skip
ANOTHER = Level(
    "another image", "Another image", "Another image in {0} of {1}",
    "another one in {0}", "bad", -math.inf, math.inf,
)  # fmt: skip
LEVELS = (IDENTICAL, SAME, SMALL, VISIBLE, ANOTHER)
"""From the best to the worst."""


def level_of_ssim(ssim: float) -> Level:
    """Of a pair of images."""
    return next((level for level in LEVELS if ssim >= level.least_ssim), ANOTHER)


def level_of_error(error: float) -> Level:
    """Of the images that are to be expected, given the relative squared error of the model's output."""
    return next((level for level in LEVELS if error <= level.most_error), ANOTHER)
