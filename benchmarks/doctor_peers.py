"""What ``hswq doctor`` says of other tools' files of the bundled tiny model, beside what was measured.

    pip install bitsandbytes gguf comfy-kitchen torchao optimum-quanto
    python -m benchmarks.doctor_peers --comfyui DIR [--images 8] [--prompts 31] [--only 'gguf*' ...] [--output DIR]

Every file is made by the tool's own package, in its own layout; *as its own* is the largest difference between weights
that the doctor decodes and those that the package does, over the largest weight. *measured* is the UNet error of
``benchmarks.fidelity`` (the package's weights in FP16, prompts that were not calibrated with), *predicted* what the
doctor says with the original and a session that has impacts for V2, rounded to nearest.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from . import fidelity, inprocess_comfy
from .peers import ORIGINAL, UNET, held_by_torchao
from .prompts import CALIBRATION

Parts = tuple[dict[str, torch.Tensor], torch.Tensor]
"""What stands in the file, by what follows the layer's name, and the weight that the package makes of it."""
QuantizeLayer = Callable[[torch.Tensor], "Parts | None"]


def bitsandbytes(weight: torch.Tensor) -> Parts | None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # pyright: ignore[reportMissingImports]

    if weight.dim() != 2 or weight.shape[1] % 64:  # on a CPU the package expands rows shorter than a block wrongly
        return None
    codes, state = quantize_4bit(weight.float(), quant_type="nf4", blocksize=64)
    beside = {f".weight.{name}": value for name, value in state.as_dict(packed=True).items()}
    return {".weight": codes, **beside}, dequantize_4bit(codes, state)


def _described(**said: object) -> dict[str, torch.Tensor]:
    return {".comfy_quant": torch.tensor(list(json.dumps(said).encode("ascii")), dtype=torch.uint8)}


def nvfp4(weight: torch.Tensor) -> Parts | None:
    import comfy_kitchen as kitchen  # pyright: ignore[reportMissingImports]

    if weight.dim() != 2 or any(size % 16 for size in weight.shape):
        return None
    factor = weight.float().abs().amax() / (6 * 448)
    codes, scales = kitchen.quantize_nvfp4(weight.float(), factor)
    found = kitchen.dequantize_nvfp4(codes, factor, scales, output_type=torch.float32)
    beside = {".weight_scale": scales, ".weight_scale_2": factor, **_described(format="nvfp4")}
    return {".weight": codes, **beside}, found


def mxfp8(weight: torch.Tensor) -> Parts | None:
    import comfy_kitchen as kitchen  # pyright: ignore[reportMissingImports]

    if weight.dim() != 2 or any(size % 32 for size in weight.shape):
        return None
    codes, scales = kitchen.quantize_mxfp8(weight.float())
    found = kitchen.dequantize_mxfp8(codes, scales, torch.float32)
    return {".weight": codes, ".weight_scale": scales.view(torch.uint8), **_described(format="mxfp8")}, found


def w4a8(weight: torch.Tensor) -> Parts | None:
    from comfy_kitchen.tensor.w4a8_int8 import (  # pyright: ignore[reportMissingImports]
        dequantize_w4a8_int8_weight,
        quantize_w4a8_int8_weight,
    )

    if weight.dim() != 2 or weight.shape[1] % 64:
        return None
    codes, relative, channel, _, table = quantize_w4a8_int8_weight(weight.float(), 16, 64)
    found = dequantize_w4a8_int8_weight(codes, relative, channel, table, None, 16, 64, torch.float32)
    beside = {".weight_s_rel": relative, ".weight_s_channel": channel, ".weight_codebook": table}
    said = _described(format="asym_w4a8_int8", group_size=16, convrot_groupsize=64)
    return {".weight": codes, **{name: part for name, part in beside.items() if part is not None}, **said}, found


def w4a4(weight: torch.Tensor) -> Parts | None:
    from comfy_kitchen.tensor.convrot_w4a4 import (  # pyright: ignore[reportMissingImports]
        dequantize_convrot_w4a4_weight,
        quantize_convrot_w4a4_weight,
    )

    if weight.dim() != 2 or weight.shape[1] % 64:
        return None
    codes, scale = quantize_convrot_w4a4_weight(weight.float(), 64)
    found = dequantize_convrot_w4a4_weight(codes, scale, 64, output_dtype=torch.float32)
    return {".weight": codes, ".weight_scale": scale, **_described(format="convrot_w4a4", convrot_groupsize=64)}, found


def torchao(weight: torch.Tensor) -> Parts | None:
    if weight.dim() != 2:
        return None
    held = held_by_torchao(weight)
    return {"._weight_qdata": held.qdata, "._weight_scale": held.scale}, held.dequantize()


def quanto(weight: torch.Tensor, kind: str = "qint8") -> Parts | None:
    from optimum import quanto  # pyright: ignore[reportMissingImports]

    if weight.dim() != 2 or any(size % 2 for size in weight.shape):
        return None
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.float()
    model = torch.nn.Sequential(layer)
    quanto.quantize(model, weights=getattr(quanto, kind))
    quanto.freeze(model)
    held: Any = model[0]
    parts = {key.removeprefix("0"): value for key, value in model.state_dict().items()}
    return parts, held.weight.dequantize()


PEERS: dict[str, tuple[str, QuantizeLayer]] = {
    "bitsandbytes NF4": ("bitsandbytes", bitsandbytes),
    "comfy-kitchen NVFP4": ("comfy_kitchen", nvfp4),
    "comfy-kitchen MXFP8": ("comfy_kitchen", mxfp8),
    "comfy-kitchen W4A8": ("comfy_kitchen", w4a8),
    "comfy-kitchen W4A4": ("comfy_kitchen", w4a4),
    "torchao FP8": ("torchao", torchao),
    "optimum-quanto INT8": ("optimum", quanto),
    "optimum-quanto INT4": ("optimum", lambda weight: quanto(weight, "qint4")),
}


def write(folder: Path, name: str, quantize_one: QuantizeLayer) -> tuple[Path, Path]:
    """The peer's own file, and one of FP16 weights as its package expands them."""
    own, expanded = load_file(ORIGINAL), load_file(ORIGINAL)
    for key, weight in expanded.items():
        if key.startswith(UNET) and key.endswith(".weight") and weight.dim() in (2, 4):
            found = quantize_one(weight)
            if found is not None:
                del own[key]
                own |= {key.removesuffix(".weight") + part: tensor for part, tensor in found[0].items()}
                expanded[key] = found[1].detach().reshape(weight.shape).half().contiguous()
    paths = folder / f"{name}.safetensors", folder / f"{name} expanded.safetensors"
    for path, tensors in zip(paths, (own, expanded), strict=True):
        save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, path)
    return paths


def write_gguf(folder: Path, kind: str) -> tuple[Path, Path]:
    """The same of GGUF: the diffusion model alone, convolutions as rows, as ComfyUI-GGUF has them."""
    import gguf  # pyright: ignore[reportMissingImports]

    path, expanded = folder / f"gguf {kind}.gguf", load_file(ORIGINAL)
    writer, quantization = gguf.GGUFWriter(path, "sdxl"), gguf.GGMLQuantizationType[kind]
    for key, weight in expanded.items():
        if not key.startswith(UNET):
            continue
        name = key.removeprefix(UNET)
        if key.endswith(".weight") and weight.dim() in (2, 4) and weight[0].numel() % 32 == 0:
            codes = gguf.quants.quantize(weight.flatten(1).float().numpy(), quantization)
            if weight.dim() == 4:
                writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(size) for size in weight.shape])
            writer.add_tensor(name, codes, raw_dtype=quantization)
            found = torch.from_numpy(gguf.quants.dequantize(codes, quantization))
            expanded[key] = found.reshape(weight.shape).half()
        else:
            writer.add_tensor(name, weight.numpy())
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    target = folder / f"gguf {kind} expanded.safetensors"
    save_file(expanded, target)
    return path, target


def difference(own: Path, expanded: Path) -> float:
    """Between what the doctor decodes and what the package does, over the largest weight of a layer."""
    from hswq_core.doctor.contents import opened

    tensors, largest = load_file(expanded), 0.0
    with opened(own) as contents:
        for name, layer in contents.layers.items():
            if layer.decode is not None:
                wanted = tensors[f"{UNET}{contents.path_of(name)}.weight"].float()
                apart = (layer.decode().reshape(wanted.shape) - wanted).abs().max()
                largest = max(largest, float(apart / wanted.abs().max()))
    return largest


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--output", type=Path, default=inprocess_comfy.ROOT / "doctor_output")
    parser.add_argument("--images", type=int, default=8, help="to judge by")
    parser.add_argument("--prompts", type=int, default=len(CALIBRATION), help="to calibrate with")
    parser.add_argument("--only", nargs="+", default=["*"], help="these files alone: names with * and ?")
    args = parser.parse_args()

    def wanted(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in args.only)

    args.output.mkdir(parents=True, exist_ok=True)
    files = {
        name: write(args.output, name, quantize_one)
        for name, (package, quantize_one) in PEERS.items()
        if wanted(name) and importlib.util.find_spec(package)
    }
    if importlib.util.find_spec("gguf"):
        kinds = [kind for kind in ("Q8_0", "Q5_1", "Q4_0") if wanted(f"gguf {kind}")]
        files |= {f"gguf {kind}": write_gguf(args.output, kind) for kind in kinds}
    inprocess_comfy.start(args.comfyui)
    from hswq.hswq_core.api import diagnose  # type: ignore[import-not-found]

    model, statistics = fidelity.calibrate(
        ORIGINAL, args.output / "statistics.safetensors", CALIBRATION[: args.prompts]
    )
    statistics = fidelity.measure(model, statistics, "v2", "nearest")
    judge = fidelity.Judge(ORIGINAL, args.images)
    print("| file | format | layers | weights | as its own | predicted | measured | predicted of measured |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, (own, expanded) in files.items():
        measured = judge.unet_error(inprocess_comfy.LoadedModel(expanded))
        found = diagnose(own, original=ORIGINAL, statistics=statistics)
        predicted, weights = found.comparison.predicted, found.comparison.mean_weight_error
        cells = [name, ", ".join(found.formats), f"{len(found.comparison.layers)}", f"{weights:.1e}"]
        cells += [f"{difference(own, expanded):.1e}", f"{predicted:.1e}", f"{measured:.1e}"]
        print(f"| {' | '.join([*cells, f'{predicted / measured:.2f}'])} |", flush=True)


if __name__ == "__main__":
    main()
