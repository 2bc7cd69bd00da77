"""The verdict: one sentence and a colour, the same on every node, page and card and in the terminal.

"Practically the same image in 4 of 4 (worst SSIM 0.97). 4.4 GB instead of 6.9." It is held in phrases, each an English
template with its values, so that a page can say it in another language.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .levels import LEVELS, Level, Tone, level_of_error, level_of_ssim

Phrase = tuple[str, ...]
"""A template, and what stands for its {0}, {1} ..."""
Sizes = tuple[int, int]
"""Bytes of the original and of the candidate."""
TOLERATED = 0.1
"""The share of the pairs that may be worse than the colour says. The sentence counts them."""
WRONG_MODEL: Phrase = ("If the candidate is a quantized model, the wrong one is connected.",)
UNKNOWN: Phrase = ("HSWQ Compare or HSWQ Prove says how close its images are",)


@dataclass(frozen=True)
class Verdict:
    """Attributes:
    tone: the colour; ``None`` where nobody looked.
    found: how many images are of which level, the best first, or what is expected.
    basis: what that is read from: the worst case.
    size: of both files, where they are known.
    action: what the user should do.
    """

    tone: Tone | None
    found: tuple[Phrase, ...]
    basis: Phrase | None = None
    size: Phrase | None = None
    action: Phrase | None = None

    @property
    def text(self) -> str:
        """In English."""
        said = ", ".join(map(_said, self.found)) + (f" ({_said(self.basis)})" if self.basis else "")
        return " ".join([f"{said}.", *(_said(part) for part in (self.size, self.action) if part)])

    def as_dict(self) -> dict[str, object]:
        """For a page."""
        return {
            "text": self.text, "tone": self.tone, "found": self.found, "basis": self.basis, "size": self.size,
            "action": self.action,
        }  # fmt: skip


def verdict_of_images(ssim: Sequence[float], sizes: Sizes | None = None, *, same_model: bool = False) -> Verdict:
    """Of pairs of images.

    Args:
        ssim: of each pair.
        same_model: whether nothing differed that is computed on the way, either.
    """
    levels = sorted((level_of_ssim(each) for each in ssim), key=LEVELS.index)
    basis = ("SSIM {0}" if len(ssim) == 1 else "worst SSIM {0}", in_digits(min(ssim)))
    return Verdict(
        levels[math.ceil(len(levels) * (1 - TOLERATED)) - 1].tone,
        _counted(levels),
        basis,
        said_of_sizes(sizes),
        WRONG_MODEL if same_model else None,
    )


def verdict_of_error(error: float | None, basis: Phrase | None = None, sizes: Sizes | None = None) -> Verdict:
    """Of a file whose images nobody has seen.

    Args:
        error: relative and squared, of the model's output over whole images; ``None`` where it is not known.
        basis: where the error is from; as predicted by the file if not given.
    """
    if error is None:
        return Verdict(None, (UNKNOWN,), None, said_of_sizes(sizes))
    level = level_of_error(error)
    basis = basis or ("predicted error of the output {0}", f"{error:.1e}")
    return Verdict(level.tone, ((f"{level.one} expected",),), basis, said_of_sizes(sizes))


def said_of_sizes(sizes: Sizes | None) -> Phrase | None:
    """ "4.4 GB instead of 6.9." """
    if sizes is None or sizes[0] == sizes[1]:
        return None
    unit, name = (1e9, "GB") if max(sizes) >= 1e9 else (1e6, "MB")
    original, candidate = (f"{size / unit:,.1f}" for size in sizes)
    return ("{0} {1} instead of {2}.", candidate, name, original)


def in_digits(ssim: float) -> str:
    """Rounded down, and with so many digits that what is not 1 does not look like it."""
    digits = 2 if ssim >= 1 else min(9, max(2, math.ceil(-math.log10(1 - ssim))))
    return f"{math.floor(ssim * 10**digits + 1e-6) / 10**digits:.{digits}f}"


def _counted(levels: Sequence[Level]) -> tuple[Phrase, ...]:
    """Args: levels: of the pairs, the best first."""
    if len(levels) == 1:
        return ((levels[0].one,),)
    (first, count), *others = Counter(levels).items()
    begin = (first.several, str(count), str(len(levels)))
    return (begin, *((level.others, str(number)) for level, number in others))


def _said(phrase: Phrase) -> str:
    template, *values = phrase
    return template.format(*values)
