"""``proof.html``: the verdict first, then figures, the error over the steps, and the pairs, the worst first.

One file without anything from elsewhere, so that it can be read from a disk or a mail: ``page.html.j2``, filled in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .verdict import FIGURES, Proof

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_ERRORS = ("latent_error", "latent_mse", "model_error", "lpips", "clip_score")


@dataclass(frozen=True)
class Pictures:
    """Of one pair, as data URIs: the reference's, the candidate's, and their amplified difference."""

    reference: str
    candidate: str
    difference: str


@dataclass(frozen=True)
class _Plot:
    """Lines over steps, in pixels.

    Attributes:
        lines: of points, as SVG has them.
        marks: heights of powers of ten, with the powers.
    """

    lines: list[str]
    marks: list[tuple[str, int]]
    steps: int
    width: int = 800
    height: int = 300
    margin: int = 60


def proof_page(proof: Proof, pictures: Sequence[Pictures]) -> str:
    """The page. Args: pictures: of the pairs, in their order."""
    from jinja2 import Environment, StrictUndefined  # ComfyUI's start need not wait for it

    order = sorted(range(len(proof.pairs)), key=lambda i: proof.pairs[i].ssim)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(
        proof=proof,
        rows=[
            {"title": FIGURES[name]} | {part: _said(name, value) for part, value in asdict(figure).items()}
            for name, figure in proof.figures().items()
        ],
        plot=_plot([pair.relative_error for pair in proof.pairs]),
        pairs=[(proof.pairs[number], pictures[number]) for number in order],
        settings=json.dumps(dict(proof.settings), indent=2, ensure_ascii=False),
        infinity=math.inf,
    )


def _said(name: str, value: float) -> str:
    """A likeness with four digits, an error by its power of ten."""
    return f"{value:.2e}" if name in _ERRORS else f"{value:.4f}"


def _plot(lines: Sequence[Sequence[float]]) -> _Plot | None:
    """Errors over steps, with a scale by powers of ten; ``None`` without any error."""
    values = [value for line in lines for value in line if value > 0]
    if not values:
        return None
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    steps = max(len(line) for line in lines)

    def height(power: float) -> float:
        return 10 + (_Plot.height - 40) * (1 - (power - low) / (high - low))

    def point(step: int, value: float) -> str:
        x = _Plot.margin + (_Plot.width - _Plot.margin - 10) * step / max(1, steps - 1)
        return f"{x:.1f},{height(math.log10(max(value, 10.0**low))):.1f}"

    return _Plot(
        lines=[" ".join(point(step, value) for step, value in enumerate(line)) for line in lines],
        marks=[(f"{height(power) + 4:.0f}", power) for power in range(low, high + 1, max(1, (high - low) // 6))],
        steps=steps,
    )
