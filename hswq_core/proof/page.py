"""``proof.html``: the verdict first, then figures, the error over the steps, and the pairs, the worst first.

One file without anything from elsewhere, so that it can be read from a disk or a mail.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .verdict import FIGURES, Proof

_ERRORS = ("latent_error", "latent_mse", "model_error", "lpips", "clip_score")
_STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:70rem;margin:2rem auto;padding:0 1rem}
.verdict{padding:1rem 1.25rem;border-radius:.5rem;font-size:1.15rem;color:#fff}
.passed{background:#1b7f4b}.failed{background:#b3261e}.same{background:#8a5a00}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;text-align:left;border-bottom:1px solid #8886}
figure{margin:1.5rem 0}figcaption{margin:.25rem 0}
.row{display:flex;flex-wrap:wrap;gap:1rem}.row>div{flex:1 1 20rem;min-width:0}
.slider{position:relative;line-height:0}.slider img{width:100%}.slider img+img{position:absolute;inset:0}
.slider input{position:absolute;inset:auto 0 .5rem;width:100%}.row img{max-width:100%;width:100%}
svg{width:100%;height:auto;background:#8881}li{overflow-wrap:anywhere}pre{overflow:auto;background:#8881;padding:1rem}
"""
_SCRIPT = """
for (const slider of document.querySelectorAll(".slider")) {
  const top = slider.querySelectorAll("img")[1], range = slider.querySelector("input");
  const show = () => { top.style.clipPath = `inset(0 0 0 ${range.value}%)`; };
  range.addEventListener("input", show);
  show();
}
"""


@dataclass(frozen=True)
class Pictures:
    """Of one pair, as data URIs: the reference's, the candidate's, and their amplified difference."""

    reference: str
    candidate: str
    difference: str


def proof_page(proof: Proof, pictures: Sequence[Pictures]) -> str:
    """The page. Args: pictures: of the pairs, in their order."""
    kind = "same" if proof.identical else "passed" if proof.passed else "failed"
    order = sorted(range(len(proof.pairs)), key=lambda i: proof.pairs[i].ssim)
    rows = "".join(
        f"<tr><td>{FIGURES[name]}</td><td>{_said(name, figure.mean)}</td>"
        f"<td>{_said(name, figure.low)} to {_said(name, figure.high)}</td><td>{_said(name, figure.median)}</td></tr>"
        for name, figure in proof.figures().items()
    )
    pairs = "".join(_pair(proof, number, pictures[number]) for number in order)
    title = f"{html.escape(proof.candidate)} against {html.escape(proof.reference)}"
    files = "".join(f"<li>{side}: {html.escape(str(file))}</li>" for side, file in proof.files.items())
    settings = html.escape(json.dumps(dict(proof.settings), indent=2, ensure_ascii=False))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p class="verdict {kind}">{html.escape(proof.verdict)}</p>
<table><tr><th></th><th>mean</th><th>95 % interval</th><th>median</th></tr>{rows}</table>
<h2>Error over the steps</h2>
<p>Relative squared error of the latents after each step, on a logarithmic scale; one line for each pair.</p>
{_plot([pair.relative_error for pair in proof.pairs])}
<h2>Pairs, the worst first</h2>
<p>Left of the handle the reference, right of it the candidate; beside them their difference, amplified.</p>
{pairs}
<h2>How it was made</h2>
<ul>{files}</ul>
<pre>{settings}</pre>
<script>{_SCRIPT}</script></body></html>
"""


def _said(name: str, value: float) -> str:
    """A likeness with four digits, an error by its power of ten."""
    return f"{value:.2e}" if name in _ERRORS else f"{value:.4f}"


def _pair(proof: Proof, number: int, pictures: Pictures) -> str:
    pair = proof.pairs[number]
    apart = "" if pair.bifurcated is None else f"; the runs part ways in step {pair.bifurcated}"
    psnr = "" if math.isinf(pair.psnr) else f", PSNR {pair.psnr:.1f} dB"
    return (
        f'<figure><div class="row"><div class="slider"><img alt="reference" src="{pictures.reference}">'
        f'<img alt="candidate" src="{pictures.candidate}"><input aria-label="reference or candidate" type="range" '
        f'value="50"></div><div><img alt="amplified difference" src="{pictures.difference}"></div></div>'
        f"<figcaption>SSIM {pair.ssim:.4f}{psnr}{apart}. Seed {pair.seed}: {html.escape(pair.prompt)}</figcaption>"
        "</figure>"
    )


def _plot(lines: Sequence[Sequence[float]]) -> str:
    """Lines over steps, with a scale by powers of ten."""
    width, height, margin = 800, 300, 60
    values = [value for line in lines for value in line if value > 0]
    if not values:
        return "<p>There is no error at any step.</p>"
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    steps = max(len(line) for line in lines)

    def at(step: int, value: float) -> str:
        x = margin + (width - margin - 10) * step / max(1, steps - 1)
        level = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return f"{x:.1f},{10 + (height - 40) * (1 - level):.1f}"

    drawn = "".join(
        f'<polyline fill="none" stroke="#2f6fdb" stroke-opacity=".6" stroke-width="1.5" points="'
        f'{" ".join(at(step, value) for step, value in enumerate(line))}"/>'
        for line in lines
    )
    marks = "".join(
        f'<text x="{margin - 8}" y="{10 + (height - 40) * (high - power) / (high - low) + 4:.0f}" text-anchor="end" '
        f'fill="currentColor" font-size="12">1e{power}</text>'
        for power in range(low, high + 1, max(1, (high - low) // 6))
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="error over the steps">{drawn}{marks}'
        f'<text x="{width // 2}" y="{height - 6}" text-anchor="middle" fill="currentColor" font-size="12">'
        f"step, 1 to {steps}</text></svg>"
    )
