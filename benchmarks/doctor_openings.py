"""What ComfyUI's own loaders do with files of every kind, beside what ``hswq doctor`` says they do.

    python -m benchmarks.doctor_openings --comfyui DIR [--output DIR]

The bundled tiny model in the kinds that the tests make. A file *opens* if an image of three steps is that of the
original but for rounding (latents within a squared error of 0.2), and is *noise* if it is not; an error is the doctor's
*refuses* or *fails*. Layers by whose width ComfyUI tells models stay as they are where a kind packs weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hswq_core import diagnose
from hswq_core.doctor.openings import NEW, OLD
from hswq_core.formats.comfy_mixed import NVFP4_FORM
from tests.core import doctor_files as files
from tests.core import doctor_peers as peers

from . import inprocess_comfy
from .peers import ORIGINAL

_SAME = 0.2
_ROTATED = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}
Change = Callable[[str, torch.Tensor], files.Tensors]
_WHOLE: dict[str, tuple[Change, files.Tensors]] = {
    "plain FP8": (files.plain, {}),
    "plain FP8 E5M2": (files.e5m2, {}),
    "v2": (files.scaled(".scale"), {}),
    "scaled_fp8": (files.scaled(".scale_weight"), files.MARK),
    "scaled_fp8, rounded inputs": (files.scaled(".scale_weight"), files.FAST_MARK),
    "scaled_fp8 in E5M2": (files.scaled_e5m2, files.E5M2_MARK),
    "scaled_fp8 without its mark": (files.scaled(".scale_weight"), {}),
    "FP8 with weight_scale": (files.scaled(".weight_scale"), {}),
    "ComfyUI FP8": (files.comfy_fp8, {}),
    "ComfyUI FP8, products": (files.scaled(".weight_scale", format="float8_e4m3fn"), {}),
    "ComfyUI FP8, scales [C_out, 1]": (files.scaled(".weight_scale", by_row=True, format="float8_e4m3fn"), {}),
    "ComfyUI FP8, scales [C_out]": (files.flat_scales, {}),
    "ComfyUI INT8": (files.integers({"format": "int8_tensorwise"}), {}),
    "INT8 without a description": (files.integers(None), {}),
    "bitsandbytes INT8": (peers.bnb_int8, {}),
    "torchao FP8": (peers.torchao, {}),
    "optimum-quanto INT8": (peers.quanto, {}),
    "optimum-quanto INT4": (peers.quanto_int4, {}),
}
_PACKED: dict[str, tuple[Change, int]] = {
    "ComfyUI MXFP8": (files.mxfp8, 32),
    "ComfyUI NVFP4": (files.nvfp4, 16),
    "ComfyUI NVFP4, products": (files.nvfp4_fast, 16),
    "ComfyUI INT8, rotated": (files.integers(_ROTATED, 64), 64),
    "ComfyUI W4A4": (files.w4a4, 64),
    "ComfyUI W4A8": (files.w4a8, 64),
    "HSWQ INT4": (files.hswq_int4, 64),
    "bitsandbytes NF4": (peers.bnb_nf4, 64),
    "SVDQuant INT4": (peers.svdquant(False), 64),
    "GPTQ": (peers.gptq, 64),
}
"""With the columns that the kind needs a multiple of."""


def changed(change: Change, more: files.Tensors, columns: int = 1) -> files.Tensors:
    """The tiny model with its Linear layers in a kind."""
    tensors = load_file(ORIGINAL)
    for name in files.unet_layers(tensors):
        weight = tensors[f"{name}.weight"]
        fits = columns == 1 or (weight.shape[1] % columns == 0 and NVFP4_FORM.holds(name, tuple(weight.shape)))
        if fits:
            del tensors[f"{name}.weight"]
            tensors |= change(name, weight)
    return tensors | more


def draw(path: Path) -> torch.Tensor:
    return inprocess_comfy.LoadedModel(path, in_stock=True).latents(["a cat"], 1, steps=3).float().cpu()


def main() -> None:
    parser = inprocess_comfy.parser(__doc__)
    parser.add_argument("--output", type=Path, default=inprocess_comfy.ROOT / "doctor_output")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    inprocess_comfy.start(args.comfyui)
    version = NEW if inprocess_comfy.reads_nvfp4() else OLD
    header = {
        name.removeprefix(files.UNET): {"format": "float8_e4m3fn"} for name in files.unet_layers(load_file(ORIGINAL))
    }
    made = {name: (changed(change, more), {}) for name, (change, more) in _WHOLE.items()}
    made |= {name: (changed(change, {}, columns), {}) for name, (change, columns) in _PACKED.items()}
    by_header = json.dumps({"format_version": "1.0", "layers": header})
    made["ComfyUI FP8 by its header"] = (made["FP8 with weight_scale"][0], {"_quantization_metadata": by_header})
    original, path, agreed = draw(ORIGINAL), args.output / "opened.safetensors", 0
    for name, (tensors, metadata) in made.items():
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
        said = next(opening.outcome for opening in diagnose(path).openings if opening.loader == version)
        try:
            apart = (draw(path) - original).square().sum() / original.square().sum()
            seen = ("opens",) if float(apart) < _SAME else ("noise",)
        except Exception as error:  # whatever a loader raises
            print(f"  {type(error).__name__}: {str(error).splitlines()[0][:80]}")
            seen = ("refuses", "fails")
        agreed += said in seen
        print(f"{name}: {said}, seen {' or '.join(seen)}", flush=True)
    print(f"{version}: {agreed} of {len(made)} as the doctor says")


if __name__ == "__main__":
    main()
