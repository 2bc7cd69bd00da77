"""Quantizing a connected MODEL of SDXL's size with a LoRA: the memory it takes beside what ComfyUI holds.

    python -m benchmarks.connected --comfyui DIR --folder DIR      # 9 GB of disk, some minutes

A random UNet of SDXL's geometry in FP16 (5.1 GB), loaded and sampled-with as ComfyUI would hold it, a LoRA of rank 8 on
every Linear layer of its transformers, V2 with nothing kept. Memory is what no file backs (RssAnon), sampled while
quantizing, over what it was before.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import torch

from . import inprocess_comfy
from .memory import resident
from .quantize import make_checkpoint


def lora_weights(model: Any) -> dict[str, tuple[Any, ...]]:
    """A low-rank difference for every Linear weight of the transformers."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, weight in model.model.diffusion_model.named_parameters():
        if ".transformer_blocks." in name and weight.dim() == 2:
            up = torch.randn(len(weight), 8, generator=generator) * 0.01
            down = torch.randn(8, weight.shape[1], generator=generator) * 0.01
            weights[f"diffusion_model.{name}"] = (up, down, 8.0, None, None, None)
    return weights


def main() -> None:
    args = inprocess_comfy.parser(__doc__, folder=True).parse_args()
    inprocess_comfy.start(args.comfyui)
    from comfy.weight_adapter import LoRAAdapter
    from hswq.hswq_core import api  # type: ignore[import-not-found]
    from hswq.loader.connected import connected_source  # type: ignore[import-not-found]
    from hswq.loader.load import load_diffusion_model  # type: ignore[import-not-found]

    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "fp16.safetensors"
    if not path.exists():
        make_checkpoint(path, 1.0, pass_through=False)
    model = load_diffusion_model(path)[0]
    patches = {key: LoRAAdapter(set(), weights) for key, weights in lora_weights(model).items()}
    patched = model.clone()
    patched.add_patches(patches)
    source = connected_source(patched, None, None, None)
    before, most = resident("RssAnon"), 0
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.02):
            most = max(most, resident("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    begin = time.perf_counter()
    report = api.quantize(source, args.folder / "connected.safetensors", mode="v2", keep_ratio=0.0, overwrite=True)
    seconds = time.perf_counter() - begin
    stop.set()
    watching.join()
    print(f"{len(patches)} patched layers of {report.quantized_layers}: {report.bytes / 1e9:.2f} GB in {seconds:.0f} s")
    print(f"{(most - before) / 1e9:.2f} GB over the {before / 1e9:.2f} GB before")


if __name__ == "__main__":
    main()
