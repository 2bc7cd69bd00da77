"""What runs a model's layers while it is measured, and after, as JSON.

python -m tests.server.modules_as_written --comfyui DIR
"""

from __future__ import annotations

import contextlib
import importlib
import json
from typing import Any

import torch

from benchmarks import inprocess_comfy

SWITCHES = ("disable_comfy_compiler", "disable_cuda_graphs")


def main() -> None:
    args = inprocess_comfy.parser(__doc__).parse_args()
    inprocess_comfy.start(args.comfyui)
    import comfy.cli_args
    import comfy.ops
    from hswq.loader.as_written import as_written  # type: ignore[import-not-found]

    options: Any = comfy.cli_args.args
    vars(options).setdefault(SWITCHES[0], False)  # newer versions have it
    before = switches(options)
    with as_written(), contextlib.suppress(ValueError), as_written():
        raise ValueError
    found: dict[str, Any] = {"before": before, "after": switches(options)}
    with as_written():
        found["inside"] = switches(options)
        found["fused"] = through_module(getattr(comfy.ops, "linear_input_act", None))
        compiled = torch.compile(torch.nn.Linear(2, 2), backend=refuse)
        found["compiled"] = list(compiled(torch.ones(1, 2)).shape)
    found["prefetched"] = prefetched(as_written)
    print(json.dumps(found))


def switches(options: Any) -> list[bool]:
    return [getattr(options, name) for name in SWITCHES if hasattr(options, name)]


def refuse(*_: Any) -> Any:
    raise AssertionError("compiled while it was to run as it is written")


def through_module(fused: Any) -> int | None:
    """How often the function that fuses a Linear layer in 8 bits calls its module; ``None`` without one."""
    if fused is None:
        return None
    from comfy.quant_ops import QuantizedTensor

    calls = []

    class Layer(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return x

    layer = Layer(256, 256, bias=False)
    weight = QuantizedTensor.from_float(torch.randn(256, 256), "TensorWiseINT8Layout")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    fused(layer, torch.randn(1, 256), "gelu_tanh")
    return len(calls)


def prefetched(as_written: Any) -> int | None:
    """What ComfyUI still holds of the layers fetched ahead after an error; ``None`` where it fetches none."""
    try:
        queues: Any = importlib.import_module("comfy.model_prefetch")
    except ModuleNotFoundError:
        return None
    queues.PREFETCH_QUEUES.append([None])
    with contextlib.suppress(ValueError), as_written():
        raise ValueError
    return len(queues.PREFETCH_QUEUES)


if __name__ == "__main__":
    main()
