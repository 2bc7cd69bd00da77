"""One step of SDXL at 1024 x 1024, with guidance, on cards that are not there: what it costs, and a model of its time.

    python -m benchmarks.card_model --comfyui DIR           # about two minutes on one core, without a card

Tensors are on "cuda" and have no data, so nothing is computed, but ComfyUI's model, its layers and our hooks run as
they would. ``card_counts.py`` says what is counted, ``cards.py`` how that becomes time. Times in brackets are of a card
that has not so much memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import inprocess_comfy
from .card_counts import StepCount
from .card_subject import MODES, count
from .cards import CARDS, issuing

H100 = CARDS["H100"]
CROWDED = 1e9
"""Bytes of a card that the system, the driver and what libraries work in take."""


@dataclass(frozen=True)
class Measured:
    """A step on an H100 on 23 November 2026, before there were kernels. Attributes: busy, taken: seconds."""

    mode: str
    taken: float
    busy: float
    launches: int


MEASURED = (
    Measured("plain", 53.9e-3, 42.6e-3, 2_225),
    Measured("V2", 88.5e-3, 59.9e-3, 3_653),
    Measured("calibrating, 1,024 rows", 246e-3, 77e-3, 8_407),
)
"""Calibrating, the host's time is known."""


def start(comfyui: Path) -> None:
    """As ``inprocess_comfy.start``, with the attention that ComfyUI chooses on a card."""
    inprocess_comfy.start(comfyui, use_pytorch_cross_attention=True)


def row(name: str, step: StepCount, by_torch: StepCount) -> str:
    """Of the table."""
    cells = [name, f"{step.launches:,}", f"{by_torch.launches:,}", f"{step.copies:,}", f"{step.moved / 1e9:.1f}"]
    cells += [f"{step.products / 1e12:.1f}", f"{step.peak / 1e9:.2f}"]
    for card in CARDS.values():
        seconds = card.seconds(step)
        time = "-" if seconds is None else f"{seconds * 1e3:,.0f}"
        cells.append(f"({time})" if step.peak + CROWDED > card.memory else time)
    return f"| {' | '.join(cells)} |"


def check(measured: Measured, step: StepCount) -> str:
    """Counted and modelled beside measured."""
    seconds, busy = H100.seconds(step), H100.busy(step)
    assert seconds is not None and busy is not None
    pairs = (
        (step.launches + step.copies, measured.launches), (issuing(step) * 1e3, measured.taken * 1e3),
        (busy * 1e3, measured.busy * 1e3), (seconds * 1e3, measured.taken * 1e3),
    )  # fmt: skip
    launches, _, working, whole = (f"{ours:,.0f} / {theirs:,.0f} ({ours / theirs - 1:+.0%})" for ours, theirs in pairs)
    return f"| {measured.mode} | {launches} | {working} | {whole} |"


def main() -> None:
    start(inprocess_comfy.parser(__doc__).parse_args().comfyui)
    by_torch = {name: count(mode, kernels=False) for name, mode in MODES.items()}
    print(f"| step | launches | by torch alone | copies | GB moved | 10^12 products | peak GB | {' | '.join(CARDS)} |")
    print("|---" * (7 + len(CARDS)) + "|")
    for name, mode in MODES.items():
        step = count(mode, kernels=True)
        print(row(name, step, by_torch[name]), flush=True)
        for what, where in (("mixed", step.mixed), ("read", step.reads), ("sent", step.sends)):
            for line in where[:3]:
                print(f"  {what}: {line}")
    print("\n| H100, model / measured | launches | busy, ms | a step, ms |\n|---|---|---|---|")
    for each in MEASURED:
        print(check(each, by_torch[each.mode]))


if __name__ == "__main__":
    main()
