"""A family of models: a tiny one of it, and how it is sampled.

Random weights of a size that keeps activations near one. Sizes that ComfyUI reads from a file are too small here for
some of its rules: ``post`` corrects what it reads, ``force`` names the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

StateDict = dict[str, torch.Tensor]
IN_CHECKPOINTS = "model.diffusion_model."


@dataclass(frozen=True)
class Family:
    """A model to build and how to sample it.

    Attributes:
        kind: the name of a class in ``comfy.supported_models``.
        settings: its configuration.
        text: shape of the conditioning, [tokens, channels].
        latent: shape of the latent; several for video with sound.
        pooled: size of the pooled conditioning.
        extras: more conditioning, made by a generator.
        post: added to the settings that ComfyUI finds in the file.
        force: whether ComfyUI is to take ``kind`` whatever it finds.
        prefix: of the keys in the file.
        rename: from module paths to the names in the file.
        gain: of the random weights.
        layout: whose names the file has, if not ComfyUI's: ``diffusers`` or ``tencent``.
        reference: the argument of the model with an image or video to follow.
        frames: of a video whose frames are the batch.
    """

    kind: str
    settings: Mapping[str, Any]
    text: tuple[int, int]
    latent: tuple[int, ...]
    pooled: int = 0
    extras: Callable[[torch.Generator], dict[str, Any]] = field(default=lambda _generator: {})
    post: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False
    prefix: str = ""
    dtype: torch.dtype = torch.bfloat16
    rename: Callable[[StateDict], StateDict] = field(default=dict)
    cfg: float = 3.0
    gain: float = 1.0
    layout: str = ""
    reference: str = ""
    frames: int = 1


def constant(**extras: Any) -> Callable[[torch.Generator], dict[str, Any]]:
    return lambda _generator: dict(extras)


def norms_by_scale(weights: StateDict) -> StateDict:
    """As Black Forest Labs names the norms of queries and keys."""
    return {(k[:-7] + ".scale" if k.endswith("_norm.weight") else k): v for k, v in weights.items()}


def reference(*shape: int) -> Callable[[torch.Generator], dict[str, Any]]:
    return lambda generator: {"reference_latents": [torch.randn(shape, generator=generator)]}


def inpainting(generator: torch.Generator) -> dict[str, Any]:
    return {
        "concat_latent_image": torch.randn(1, 4, 16, 16, generator=generator),
        "concat_mask": torch.ones(1, 1, 128, 128),
    }


def first_frame(generator: torch.Generator) -> dict[str, Any]:
    vision = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280, generator=generator))
    return {
        "concat_latent_image": torch.randn(1, 16, 3, 8, 8, generator=generator),
        "concat_mask": torch.ones(1, 1, 3, 8, 8),
        "clip_vision_output": vision,
    }


def vace(generator: torch.Generator) -> dict[str, Any]:
    return {
        "vace_frames": [torch.randn(1, 32, 3, 8, 8, generator=generator)],
        "vace_mask": [torch.ones(1, 64, 3, 8, 8)],
        "vace_strength": [1.0],
    }


UNET = {
    "use_checkpoint": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4,
    "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
    "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "context_dim": 48, "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
    "use_temporal_resblock": False,
}  # fmt: skip
HUNYUAN_VIDEO = {
    "image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16, "vec_in_dim": 768,
    "axes_dim": [16, 56, 56], "meanflow": False, "context_in_dim": 96, "hidden_size": 256, "mlp_ratio": 4.0,
    "num_heads": 2, "depth": 1, "depth_single_blocks": 2, "theta": 256, "qkv_bias": True, "byt5": False,
    "guidance_embed": True, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
TWO_HEADS = {"num_heads": 2}
"""Older versions of ComfyUI take 24 for granted."""
