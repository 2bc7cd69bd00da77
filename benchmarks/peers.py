"""The same UNet quantized by other projects' libraries, for ``benchmarks.fidelity --peers``.

    pip install torchao optimum-quanto convert-to-quant prodigy-plus-schedule-free
    python -m benchmarks.peers --output DIR

Each result is a checkpoint of FP16 weights that are exactly what the peer's weights stand for, and beside it a
JSON with the size in the peer's own form. torchao quantizes Linear layers only, optimum-quanto convolutions
too, both with a scale for each output channel; convert-to-quant rounds Linear layers by learning.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

ORIGINAL = Path(__file__).resolve().parents[1] / "tests" / "tiny_model" / "hswq_tiny.safetensors"
UNET = "model.diffusion_model."
Quantized = tuple[torch.Tensor, int]
"""What a weight stands for after quantization, and the bytes it takes with its scales."""


def held_by_torchao(weight: torch.Tensor) -> Any:
    """The weight of a Linear layer, as torchao holds it."""
    from torchao.quantization import Float8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]

    layer = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    layer[0].weight.data = weight.float()
    quantize_(layer, Float8WeightOnlyConfig())
    return layer[0].weight


def by_torchao(weight: torch.Tensor) -> Quantized | None:
    if weight.dim() != 2:
        return None
    held = held_by_torchao(weight)
    return held.dequantize(), held.qdata.nbytes + held.scale.nbytes


def by_quanto(weight: torch.Tensor) -> Quantized | None:
    from optimum.quanto import freeze, qfloat8_e4m3fn, quantize  # pyright: ignore[reportMissingImports]

    out, inp, *kernel = weight.shape
    layer = (
        torch.nn.Conv2d(inp, out, (kernel[0], kernel[1]), bias=False)
        if kernel
        else torch.nn.Linear(inp, out, bias=False)
    )
    layer.weight.data = weight.float()
    model = torch.nn.Sequential(layer)
    quantize(model, weights=qfloat8_e4m3fn)
    freeze(model)
    held: Any = model[0].weight
    return held.dequantize(), held._data.nbytes + held._scale.nbytes


def write(output: Path, name: str, quantize_one: Callable[[torch.Tensor], Quantized | None]) -> None:
    tensors, size = load_file(ORIGINAL), ORIGINAL.stat().st_size
    for key, weight in tensors.items():
        if key.startswith(UNET) and key.endswith(".weight") and weight.dim() in (2, 4):
            result = quantize_one(weight)
            if result is not None:
                tensors[key] = result[0].detach().reshape(weight.shape).half().contiguous()
                size += result[1] - weight.nbytes
    save(output, name, tensors, size)


def convert_to_quant(output: Path) -> None:
    written = output / "convert_to_quant.own"
    command = ["convert-to-quant", "-i", str(ORIGINAL), "-o", str(written), "--device", "cpu", "--manual_seed", "0"]
    program = str(Path(sys.executable).with_name(command[0]))
    subprocess.run(
        [program, *command[1:], "--comfy_quant"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    original, found = load_file(ORIGINAL), load_file(written)
    tensors, size = dict(original), ORIGINAL.stat().st_size
    for key, weight in original.items():
        # It quantizes the text encoder, too; only the UNet is compared.
        if key.startswith(UNET) and found[key].dtype == torch.float8_e4m3fn:
            scale = found[key.removesuffix("weight") + "weight_scale"]
            tensors[key] = (found[key].float() * scale).half()
            size += found[key].nbytes + scale.nbytes - weight.nbytes
    save(output, "convert-to-quant", tensors, size)
    written.unlink()


def save(output: Path, name: str, tensors: dict[str, torch.Tensor], size: int) -> None:
    save_file(tensors, output / f"{name}.safetensors")
    (output / f"{name}.json").write_text(json.dumps({"bytes": size}) + "\n", encoding="utf-8")
    print(f"{name}: {size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    write(args.output, "torchao", by_torchao)
    write(args.output, "optimum-quanto", by_quanto)
    convert_to_quant(args.output)


if __name__ == "__main__":
    main()
