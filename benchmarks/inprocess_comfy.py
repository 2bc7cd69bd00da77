"""A ComfyUI inside this process, for measurements that need the model itself and not only its images."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# ComfyUI runs every node in inference mode, and tensors of its quantized types convert differently outside of it.
_inference = torch.inference_mode()
_inference.__enter__()

ROOT = Path(__file__).resolve().parents[1]
TINY_MODEL = ROOT / "tests" / "tiny_model"


def parser(description: str | None, *, folder: bool = False) -> argparse.ArgumentParser:
    """The options of a benchmark that needs a ComfyUI, and a folder for large files if it is to have one."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI checkout")
    if folder:
        found.add_argument("--folder", type=Path, required=True)
    return found


def start(comfyui: Path, **settings: Any) -> None:
    """Make ComfyUI importable, and this pack under the name of one package, ``hswq``, as ComfyUI would.

    Args:
        settings: arguments of ComfyUI's command line.
    """
    sys.argv = sys.argv[:1]
    sys.path[:0] = [str(comfyui), str(TINY_MODEL)]
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    vars(args).update(settings)
    import architecture

    architecture.register()
    # The nodes are not needed, only the loader and the core.
    spec = importlib.util.spec_from_file_location(
        "hswq", ROOT / "hswq_core/__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["hswq"] = importlib.util.module_from_spec(spec)


def reads_nvfp4() -> bool:
    """Whether this ComfyUI's own loaders know NVFP4."""
    import comfy.quant_ops

    return "nvfp4" in getattr(comfy.quant_ops, "QUANT_ALGOS", {})


class LoadedModel:
    """One loaded checkpoint that draws images and lets its UNet be called.

    Args:
        in_stock: open it with ComfyUI's own loader.
        loading: options of HSWQ's.
    """

    def __init__(self, checkpoint: Path, *, in_stock: bool = False, **loading: Any) -> None:
        if in_stock:
            import comfy.sd

            self.model, self.clip, self.vae = comfy.sd.load_checkpoint_guess_config(str(checkpoint))[:3]
            return
        from hswq.loader.load import load_checkpoint  # type: ignore[import-not-found]

        self.model, self.clip, self.vae, _ = load_checkpoint(checkpoint, **loading)

    @property
    def unet(self) -> torch.nn.Module:
        return self.model.model.diffusion_model

    def latents(
        self, prompts: Sequence[str], seed: int, model: Any = None, size: int = 256, **settings: Any
    ) -> torch.Tensor:
        """Final latents [N, C, H, W], one for each prompt."""
        from hswq.loader.latents import empty_latent  # type: ignore[import-not-found]
        from hswq.loader.sample import encode, sample  # type: ignore[import-not-found]

        options = {"steps": 25, "cfg": 2.0, "sampler": "euler", "scheduler": "normal", **settings}
        negative = encode(self.clip, [""] * len(prompts))
        return sample(
            model or self.model, encode(self.clip, prompts), negative,
            empty_latent(self.model, len(prompts), size, size), seed=seed, **options,
        )  # fmt: skip

    def images(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [N, H, W, 3] in [0, 1]."""
        return self.vae.decode(latents)
