"""What SDXL's steps cost a card that is not there, as JSON: ``python -m tests.server.counted_card --comfyui DIR``."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from benchmarks import card_model, inprocess_comfy
from benchmarks.card_counts import StepCount
from benchmarks.card_subject import MODES, count
from benchmarks.fake_card import CARD, E4m3, Int8, LayerSums, Packed, fake_card

COUNTED = (
    "plain", "calibrating, 1,024 rows", "V2", "V2, fast", "int8", "int8, fast", "mixed", "sensitivity, a backward pass",
)  # fmt: skip
FAULTS: dict[str, Callable[[torch.Tensor], object]] = {
    "none": lambda y: y * torch.tensor(2.0),
    "a number read": lambda y: y.sum().item(),
    "a condition": lambda y: 1 if y.sum() > 0 else 0,
    "a copy to the host": lambda y: y.cpu(),
    "a tensor of the CPU added": lambda y: y + torch.ones(4),
    "an index of the CPU": lambda y: y[torch.tensor([0])],
    "a tensor sent": lambda y: torch.ones(4).to(y.device),
}
"""What a hook could do with a layer's output."""


def main() -> None:
    card_model.start(inprocess_comfy.parser(__doc__).parse_args().comfyui)
    steps = {name: told(count(MODES[name], kernels=True)) for name in COUNTED}
    faults = {name: told(with_fault(fault)) for name, fault in FAULTS.items()}
    print(json.dumps({"steps": steps, "faults": faults, "signatures": signatures()}))


def signatures() -> list[list[list[str]]]:
    """The arguments of each stand-in and of its kernel, where Triton is installed."""
    if importlib.util.find_spec("triton") is None:
        return []
    from hswq.hswq_core.kernels import e4m3, int8, layer_sums, packed  # type: ignore[import-not-found]

    pairs = (
        (E4m3.dequantize, e4m3.dequantize),
        (E4m3.quantize, e4m3.quantize),
        (Int8.quantize_rows, int8.quantize_rows),
        (Int8.scale_sums, int8.scale_sums),
        (LayerSums.measure, layer_sums.measure),
        (Packed.dequantize, packed.dequantize),
    )
    return [[list(inspect.signature(each).parameters) for each in pair] for pair in pairs]


def told(step: StepCount) -> dict[str, Any]:
    return {
        "launches": step.launches,
        "products": step.products,
        "peak": step.peak,
        "found": {"mixed": step.mixed, "reads": step.reads, "sends": step.sends},
    }


def with_fault(fault: Callable[[torch.Tensor], object]) -> StepCount:
    """A layer with a hook that does this."""

    def hook(_module: object, _args: object, output: torch.Tensor) -> None:
        fault(output)

    with fake_card(kernels=True) as counter:
        layer = torch.nn.Linear(4, 4, device=CARD)
        layer.register_forward_hook(hook)
        with counter.step() as step, suppress(RuntimeError):  # torch refuses tensors of two devices
            layer(torch.empty(2, 4, device=CARD))
    return step


if __name__ == "__main__":
    main()
