"""Whether statistics were gathered widely enough to be trusted."""

from __future__ import annotations

from collections.abc import Mapping

from .statistics import NOISE_BINS, Statistics

FEW_SAMPLES = 8
"""Below this, a layer's statistics depend noticeably on the choice of images; 32 are recommended."""


def coverage_notes(statistics: Statistics) -> list[str]:
    """What is as it should be in a first try, and could be better."""
    if statistics.samples >= FEW_SAMPLES:
        return []
    images = "1 image" if statistics.samples == 1 else f"{statistics.samples} images"
    return [f"the calibration has only {images}; 32 are recommended"]


def coverage_warnings(statistics: Statistics) -> list[str]:
    """Warnings about what the calibration did not cover; empty when it covers enough."""
    found = []
    for why, count in statistics.left_out.items():
        runs = "1 run was" if count == 1 else f"{count} runs were"
        found.append(f"{runs} left out: {why}")
    if statistics.never_ran:
        found.append(_never_ran(statistics.never_ran))
    covered = [number for number, count in enumerate(statistics.noise_levels) if count]
    if not covered:
        return found
    # A model that only samples a part of each run, as one of two experts, must cover that part alone.
    is_expert = statistics.partial_runs == statistics.runs > 0
    asked = range(covered[0], covered[-1] + 1) if is_expert else range(NOISE_BINS)
    if missing := sorted(set(asked) - set(covered)):
        tenths = ", ".join(f"{100 * n // NOISE_BINS}-{100 * (n + 1) // NOISE_BINS} %" for n in missing)
        remedy = "sample with more steps" if is_expert else "sample with full denoise and 20 steps or more"
        found.append(f"these noise levels were not calibrated: {tenths}; {remedy}")
    return found


def coverage_lines(statistics: Statistics) -> list[str]:
    """Both, as a terminal shows them."""
    notes, warnings = coverage_notes(statistics), coverage_warnings(statistics)
    return [*(f"note: {note}" for note in notes), *(f"warning: {warning}" for warning in warnings)]


def _never_ran(shares: Mapping[str, float]) -> str:
    """Args: shares: of all layers' weights, by layer."""
    layers = "1 layer" if len(shares) == 1 else f"{len(shares)} layers"
    example = max(shares, key=lambda name: shares[name])
    return (
        f"{layers} with {100 * sum(shares.values()):.2g} % of the weights never ran where it could be measured, such "
        f"as {example}, and will not be quantized; with --fast, newer versions compute layers past their modules"
    )
