"""The models that ``benchmarks.fidelity`` judges: names, statistics and options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

CURVE = (0.1, 0.25, 0.0, 0.5, 0.05)
BY_CHANNEL = (0.1, 0.25)
INTEGERS = (0.1, 0.25, 0.0)
MIXED = (0.3, 0.33, 0.36, 0.4, 0.45, 0.509)
"""Shares of the UNet's bytes."""
COMFY_MIXED = (0.68,)
"""Judged in the loaders and the arithmetic of a ComfyUI that has NVFP4. Convolutions stay in 16 bits."""
ABLATED = (("v1", 0.1), ("v1", 0.25))


def variants(
    plain: Any, measured: Callable[..., Any], size: Callable[[str, float], int]
) -> Iterable[tuple[str, Callable[[], Any], dict[str, Any]]]:
    """Name, statistics and options of every model that is judged; a budget is the size of the reference."""

    def statistics() -> Any:
        return plain

    for ratio in CURVE:
        for mode in ("v1", "v2"):
            yield f"reference {mode} {ratio:g}", statistics, {"mode": mode, "keep_ratio": ratio}
            if not ratio:
                yield f"calibrated {mode} 0", statistics, {"mode": mode, "keep_ratio": 0.0, "rounding": "calibrated"}
                continue
            budgeted = {"mode": mode, "budget": str(size(mode, ratio)), "selection": "measured"}
            for rounding in ("nearest", "calibrated") if (mode, ratio) in ABLATED else ("calibrated",):
                yield (
                    f"{rounding}+measured {mode} {ratio:g}",
                    partial(measured, mode, rounding),
                    {**budgeted, "rounding": rounding},
                )
            if mode == "v2" and ratio in BY_CHANNEL:
                options = {**budgeted, "rounding": "calibrated", "scales": "channel"}
                yield f"calibrated+measured v2 {ratio:g} by channel", partial(measured, "v2", "calibrated"), options
    for ratio in INTEGERS:
        keeping = {"budget": str(size("v2", ratio)), "selection": "measured"} if ratio else {"keep_ratio": 0.0}
        for rounding in ("nearest", "calibrated"):
            name = f"{rounding}+measured int8 {ratio:g}" if ratio else f"{rounding} int8 0"
            yield name, partial(measured, "int8", "calibrated"), {"mode": "int8", "rounding": rounding, **keeping}
        if ratio:
            # The reference's own integers: each layer's error put in alone, the least harmful ones quantized.
            options = {"mode": "int8", "selection": "measured", "size": keeping["budget"]}
            yield f"injected int8 {ratio:g}", partial(measured, "int8", "nearest", "exact"), options
    for share in MIXED:
        keeping = {"mode": "mixed", "rounding": "calibrated", "budget": str(size("mixed", share))}
        yield f"mixed {share:g}", partial(measured, "mixed", "calibrated"), keeping
    for share in COMFY_MIXED:
        keeping = {"mode": "comfy-mixed", "rounding": "calibrated", "budget": str(size("mixed", share))}
        yield f"comfy-mixed {share:g}", partial(measured, "comfy-mixed", "calibrated"), keeping
    options = {"mode": "comfy", "keep_ratio": 0.1, "rounding": "calibrated", "selection": "measured"}
    yield "calibrated+measured comfy 0.1", partial(measured, "v2", "calibrated"), options
