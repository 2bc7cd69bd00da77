"""How many bits every layer has, where a format offers several: bytes go to where they avoid the most error.

Impacts on the model's output add up, so the file with the least error for its bytes is a knapsack with one choice for
each layer. From the smallest choices on, the best upgrade of any layer, by impact saved for each byte, is made first. A
layer's own upgrades follow the lower convex hull of its (bytes, impact): none is better than one before it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..formats import Form

KNEE_RANGE = (1e-6, 1e-2)
"""Predicted errors between which the knee is looked for: below, images do not differ; above, nobody wants them."""


@dataclass(frozen=True)
class Choice:
    """One way to store a layer: its form, ``None`` for as it is; the bytes it takes; its impact on the output."""

    form: Form | None
    nbytes: int
    impact: float


@dataclass(frozen=True)
class Upgrade:
    """A layer's next choice, the bytes that it adds, and the impact that it saves."""

    layer: str
    choice: Choice
    nbytes: int
    saved: float


def smallest(choices: Sequence[Choice]) -> Choice:
    """The one with the fewest bytes; of several, the one with the least impact."""
    return min(choices, key=lambda choice: (choice.nbytes, choice.impact))


def upgrades(choices: Mapping[str, Sequence[Choice]]) -> list[Upgrade]:
    """All upgrades from the smallest choices to the best ones, the most impact saved for each byte first.

    Args:
        choices: by layer.
    """
    found = [upgrade for layer, each in sorted(choices.items()) for upgrade in _along_hull(layer, each)]
    return sorted(found, key=lambda upgrade: -upgrade.saved / upgrade.nbytes)  # stable: a layer's own keep their order


@dataclass(frozen=True)
class Frontier:
    """The best that can be had for every number of bytes.

    Attributes:
        first: the smallest choice of each layer.
        path: upgrades from there on.
        errors: the predicted error after 0, 1, 2, ... upgrades.
    """

    first: Mapping[str, Choice]
    path: Sequence[Upgrade]
    errors: Sequence[float]

    def sizes(self, least: int) -> list[int]:
        """Bytes after 0, 1, 2, ... upgrades. Args: least: with all layers in their smallest choice."""
        return list(itertools.accumulate((upgrade.nbytes for upgrade in self.path), initial=least))


def frontier(choices: Mapping[str, Sequence[Choice]]) -> Frontier:
    """Args: choices: by layer."""
    first = {layer: smallest(each) for layer, each in choices.items()}
    path = upgrades(choices)
    return Frontier(first, path, errors_along(path, sum(choice.impact for choice in first.values())))


def within_bytes(path: Iterable[Upgrade], available: int) -> dict[str, Choice]:
    """The upgrades that fit into so many bytes, by layer. A layer whose next upgrade does not fit stays as it is."""
    chosen: dict[str, Choice] = {}
    full: set[str] = set()
    for upgrade in path:
        if upgrade.layer in full:
            continue
        if upgrade.nbytes > available:
            full.add(upgrade.layer)
            continue
        available -= upgrade.nbytes
        chosen[upgrade.layer] = upgrade.choice
    return chosen


def first_steps(path: Sequence[Upgrade], count: int) -> dict[str, Choice]:
    """The first ``count`` upgrades, by layer."""
    return {upgrade.layer: upgrade.choice for upgrade in path[:count]}


def errors_along(path: Sequence[Upgrade], least: float) -> list[float]:
    """The predicted error after 0, 1, 2, ... upgrades.

    Args:
        least: with all layers in their smallest choice.
    """
    # Summed from the end, where the small ones are: differences of a large sum would lose them.
    left = least - sum(upgrade.saved for upgrade in path)
    backwards = itertools.accumulate((upgrade.saved for upgrade in reversed(path)), initial=max(0.0, left))
    return list(backwards)[::-1]


def steps_to_error(errors: Sequence[float], target: float) -> int:
    """The least number of upgrades whose predicted error is at most ``target``, all of them if there is none."""
    return next((count for count, error in enumerate(errors) if error <= target), len(errors) - 1)


def knee(sizes: Sequence[int], errors: Sequence[float]) -> int:
    """The number of upgrades after which more bytes buy less and less: where the curve of the logarithm of the error
    over the size is furthest below the line between its ends (Satopaa et al., Finding a kneedle in a haystack, 2011).

    Args:
        sizes, errors: after 0, 1, 2, ... upgrades.
    """
    inside = [n for n, error in enumerate(errors) if KNEE_RANGE[0] <= error <= KNEE_RANGE[1]]
    if len(inside) < 3:
        return steps_to_error(errors, KNEE_RANGE[1])
    first, last = inside[0], inside[-1]
    width = (sizes[last] - sizes[first]) or 1
    begin, end = math.log(errors[first]), math.log(errors[last])

    def below(number: int) -> float:
        chord = begin + (end - begin) * (sizes[number] - sizes[first]) / width
        return chord - math.log(errors[number])

    return max(inside, key=below)


def _along_hull(layer: str, choices: Sequence[Choice]) -> Iterable[Upgrade]:
    """A layer's upgrades, each the best for its bytes from where the one before it leads."""
    here = smallest(choices)
    while True:
        better = [each for each in choices if each.nbytes > here.nbytes and each.impact < here.impact]
        if not better:
            return
        following = max(
            better, key=lambda each: ((here.impact - each.impact) / (each.nbytes - here.nbytes), each.nbytes)
        )
        yield Upgrade(layer, following, following.nbytes - here.nbytes, here.impact - following.impact)
        here = following
