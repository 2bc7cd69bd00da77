"""README's picture: all weights in 4 bits, and HSWQ's mixed bits in a file of the same size, on the tiny model.

    python -m showcase.four_bits --comfyui DIR      # docs/images/four_bits.png, two minutes

The calibration is the demo's, and so are the images' prompts, which it did not see.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.server import REPOSITORY, TINY_CHECKPOINT, ComfyServer
from tests.support.workflows import TINY, hswq_loaded, plain

from .demo import CFG, STEPS, TEST_PROMPTS, calibrate, quantized
from .sheet import contact_sheet

TARGET = REPOSITORY / "docs" / "images" / "four_bits.png"
NAIVE = "four_bits.safetensors"
GROUP = 32
COLUMNS, ZOOM, AMPLIFICATION = 3, 6, 4
_UNET = "model.diffusion_model."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI checkout")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(args.comfyui, Path(base)) as server:
        size = write_naive(server.checkpoints / NAIVE)
        calibrate(server)
        budget = f"{100 * size / TINY_CHECKPOINT.stat().st_size:.3f}%"
        ours = quantized(
            server, "mixed", mode="mixed", selection="measured", rounding="calibrated", budget=budget, keep_ratio=0.0
        )
        rows = {
            f"original\n{TINY_CHECKPOINT.stat().st_size / 1e6:.2f} MB": images(server, TINY),
            f"4 bits, naive\n{size / 1e6:.2f} MB": images(server, NAIVE),
            f"HSWQ mixed\n{ours.stat().st_size / 1e6:.2f} MB": images(server, ours.name, is_ours=True),
        }
    contact_sheet(rows, COLUMNS, ZOOM, AMPLIFICATION).save(TARGET, optimize=True)
    print(TARGET)


def write_naive(target: Path) -> int:
    """FP16 weights that are what 4 bits with a scale for every 32 weights stand for; the bytes such a file takes."""
    tensors, size = load_file(TINY_CHECKPOINT), TINY_CHECKPOINT.stat().st_size
    for key, weight in tensors.items():
        if key.startswith(_UNET) and key.endswith(".weight") and weight.dim() in (2, 4):
            tensors[key] = rounded(weight)
            groups = weight.shape[0] * -(-weight[0].numel() // GROUP)
            size += weight.numel() // 2 + 2 * groups - weight.nbytes
    save_file(tensors, target)
    return size


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Integers from -7 to 7, each group by its largest value."""
    rows = weight.flatten(1).float()
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    scale = (padded.abs().amax(-1, keepdim=True) / 7).clamp_min(1e-12).half().float()
    values = (padded / scale).round().clamp(-7, 7) * scale
    return values.flatten(1)[:, : rows.shape[1]].reshape(weight.shape).to(weight.dtype)


def images(server: ComfyServer, checkpoint: str, is_ours: bool = False) -> list[Image.Image]:
    """One image for each of the demo's prompts, from the same noise for every model."""
    make, found = hswq_loaded if is_ours else plain, []
    for seed, prompt in enumerate(TEST_PROMPTS[:COLUMNS]):
        name = f"{Path(checkpoint).stem}_{seed}"
        outputs = server.run(make(name, checkpoint, prompt=prompt, seed=1000 + seed, steps=STEPS, cfg=CFG))
        found.append(Image.open(server.images(outputs, f"{name}_image")[0]).convert("RGB"))
    return found


if __name__ == "__main__":
    main()
