"""Into how many graphs torch.compile cuts the UNet of each kind of file, as JSON.

python -m tests.server.graph_breaks --comfyui DIR
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import inprocess_comfy
from tests.support.server import TINY_CHECKPOINT

FILES = {"v2": {"mode": "v2"}, "v2 by channel": {"mode": "v2", "scales": "channel"}, "int8": {"mode": "int8"}}


def main() -> None:
    args = inprocess_comfy.parser(__doc__).parse_args()
    inprocess_comfy.start(args.comfyui)
    import comfy.sd
    from hswq.hswq_core import api  # type: ignore[import-not-found]
    from hswq.loader.load import load_diffusion_model  # type: ignore[import-not-found]

    found = {"stock FP16": breaks(comfy.sd.load_diffusion_model(str(TINY_CHECKPOINT)))}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in FILES.items():
            target = Path(folder) / f"{name}.safetensors"
            api.quantize(TINY_CHECKPOINT, target, keep_ratio=0.0, **options)
            found[name] = breaks(load_diffusion_model(target)[0])
            if name == "int8":
                found["int8, fast"] = breaks(load_diffusion_model(target, fast=True)[0])
    print(json.dumps(found))


def breaks(model: Any) -> list[str]:
    """The reasons why a call of the UNet is not one graph."""
    torch._dynamo.reset()
    context = model.model.model_config.unet_config["context_dim"]
    adm = model.model.model_config.unet_config["adm_in_channels"]
    channels = model.model.latent_format.latent_channels
    inputs = (torch.randn(2, channels, 32, 32), torch.ones(2), torch.randn(2, 77, context), torch.randn(2, adm))
    x, times, text, label = inputs
    explained: Any = torch._dynamo.explain(model.model.diffusion_model)(x, times, context=text, y=label)
    return [str(each.reason) for each in explained.break_reasons]


if __name__ == "__main__":
    main()
