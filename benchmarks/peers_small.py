"""The same UNet in fewer than 8 bits by other projects' ways, for ``benchmarks.fidelity --peers``.

    pip install bitsandbytes gguf comfy-kitchen
    python -m benchmarks.peers_small --comfyui DIR --output DIR

Files as ``benchmarks.peers`` writes them: FP16 weights that are exactly what the peer's stand for, and the size in the
peer's own form. *nf4*: bitsandbytes, blocks of 64. *nvfp4*: comfy-kitchen, largest values. *gguf*: the gguf package's
Q4_0 and Q5_1, since it only reads Q4_K and Q5_K. *int4 gptq*: every layer alike, groups of 64, rounded by its inputs.
*local mixer*: 4, 8 or 16 bits where a byte lowers the layer's own relative error most, plain rounding, Linear layers
alone: what the description of NidAll/comfyui-mixed-quantizer says. All but the mixer take convolutions, too, as rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hswq_core.calibration.statistics import Statistics
from hswq_core.formats import FORMATS, Form
from hswq_core.quantize_layer import quantize_layer
from hswq_core.rounding.weight import scale_like

from . import fidelity, inprocess_comfy
from .peers import ORIGINAL, UNET, Quantized, save, write

_INT4, _INT8 = (next(form for form in FORMATS["mixed"].forms if form.bits == bits) for bits in (4, 8))
_SHARE = 0.68
"""Of the UNet's bytes that the mixer has: convolutions alone are 42 %."""


def by_nf4(weight: torch.Tensor) -> Quantized:
    from bitsandbytes.functional import (  # pyright: ignore[reportMissingImports]
        dequantize_4bit,
        quantize_4bit,
    )

    codes, state = quantize_4bit(weight.float(), quant_type="nf4", blocksize=64)
    return dequantize_4bit(codes, state), codes.nbytes + state.absmax.nbytes


def by_nvfp4(weight: torch.Tensor) -> Quantized | None:
    import comfy_kitchen  # pyright: ignore[reportMissingImports]

    rows = weight.flatten(1)
    if any(size % 16 for size in rows.shape):
        return None
    factor = rows.float().abs().amax() / (6 * 448)
    codes, scales = comfy_kitchen.quantize_nvfp4(rows, factor)
    found = comfy_kitchen.dequantize_nvfp4(codes, factor, scales, output_type=torch.float32)
    return found, codes.nbytes + rows.numel() // 16 + 4


def by_gguf(kind: str) -> Callable[[torch.Tensor], Quantized | None]:
    from gguf import GGMLQuantizationType  # pyright: ignore[reportMissingImports]
    from gguf.quants import dequantize, quantize  # pyright: ignore[reportMissingImports]

    def quantized(weight: torch.Tensor) -> Quantized | None:
        rows = weight.flatten(1)
        if rows.shape[1] % 32:
            return None
        codes = quantize(rows.float().numpy(), GGMLQuantizationType[kind])
        return torch.from_numpy(dequantize(codes, GGMLQuantizationType[kind])), codes.nbytes

    return quantized


def plain(weight: torch.Tensor, form: Form) -> Quantized:
    """Rounded to nearest, every weight counting alike."""
    rounded = quantize_layer(weight, None, form, "nearest")
    found = form.grid.dequantize(rounded.codes, scale_like(weight, rounded.scale))
    return found, form.encode(rounded.codes).nbytes + rounded.scale.nbytes


def gptq(output: Path, statistics: Statistics) -> None:
    tensors, size = load_file(ORIGINAL), ORIGINAL.stat().st_size
    for layer, measured in statistics.layers.items():
        weight = tensors[f"{UNET}{layer}.weight"]
        rounded = quantize_layer(weight, measured, _INT4, "calibrated")
        found = _INT4.grid.dequantize(rounded.codes, scale_like(weight, rounded.scale))
        tensors[f"{UNET}{layer}.weight"] = found.half()
        size += _INT4.encode(rounded.codes).nbytes + rounded.scale.nbytes - weight.nbytes
    save(output, "int4 gptq", tensors, size)


def local_mixer(output: Path, share: float) -> None:
    """From 4 bits on, the layer whose next step lowers its own relative error most for each byte goes first."""
    tensors, size = load_file(ORIGINAL), ORIGINAL.stat().st_size
    unet = {key: tensor for key, tensor in tensors.items() if key.startswith(UNET)}
    whole = sum(tensor.nbytes for tensor in unet.values())
    allowed = size - round((1 - share) * whole)
    steps: list[tuple[float, int, str, torch.Tensor]] = []
    for key, weight in unet.items():
        if not key.endswith(".weight") or weight.dim() != 2:
            continue
        choices = [plain(weight, _INT4), plain(weight, _INT8), (weight.float(), weight.nbytes)]
        errors = [_relative(weight, each) for each, _ in choices]
        size += choices[0][1] - weight.nbytes
        tensors[key] = choices[0][0].half()
        for (_, before), (found, after), lost, left in zip(choices, choices[1:], errors, errors[1:], strict=False):
            steps.append(((lost - left) / (after - before), after - before, key, found))
    for _, more, key, found in sorted(steps, key=lambda step: -step[0]):
        if size + more <= allowed:
            size += more
            tensors[key] = found.half()
    save(output, f"local mixer {share:g}", tensors, size)


def _relative(weight: torch.Tensor, found: torch.Tensor) -> float:
    return float((found - weight.float()).square().sum() / weight.float().square().sum())


def ways() -> Iterator[tuple[str, Callable[[torch.Tensor], Quantized | None]]]:
    yield "nf4", by_nf4
    yield "nvfp4", by_nvfp4
    yield "gguf q4_0", by_gguf("Q4_0")
    yield "gguf q5_1", by_gguf("Q5_1")


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name, quantize_one in ways():
        write(args.output, name, quantize_one)
    local_mixer(args.output, _SHARE)
    inprocess_comfy.start(args.comfyui)
    calibrated: Any = fidelity.calibrate(ORIGINAL, args.output / "statistics.hswq")[1]
    gptq(args.output, calibrated)


if __name__ == "__main__":
    main()
