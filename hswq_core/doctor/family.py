"""Which family of models a file is of, by the names and shapes of its tensors."""

from __future__ import annotations

from ..files.modelspec import architecture_of
from .contents import Contents

UNKNOWN = "unknown"
_MARKS = (
    ("qwen-image", ("transformer_blocks.0.img_mod.1", "txt_norm")),
    ("chroma", ("distilled_guidance_layer.",)),
    ("hunyuan-video", ("txt_in.individual_token_refiner.",)),
    ("flux", ("double_blocks.0.", "single_blocks.0.")),
    ("stable-diffusion-v3", ("joint_blocks.0.",)),
    ("aura-flow", ("double_layers.0.", "cond_seq_linear")),
    ("z-image or lumina-2", ("cap_embedder.", "noise_refiner.")),
    ("wan", ("blocks.0.cross_attn.", "patch_embedding.")),
    ("ltx-video", ("patchify_proj.", "scale_shift_table")),
    ("pixart", ("t_block.", "y_embedder.")),
    ("cosmos", ("blocks.block0.",)),
    ("flux (names of diffusers)", ("single_transformer_blocks.0.", "transformer_blocks.0.attn.add_")),
    ("stable-diffusion (names of diffusers)", ("down_blocks.0.", "up_blocks.0.")),
    ("stable-diffusion", ("input_blocks.0.", "output_blocks.0.")),
)
"""All marks of a family are in its names; the more special one first."""


def family_of(contents: Contents) -> str:
    """ModelSpec's identifier where shapes tell it, otherwise the family by its names, or ``unknown``."""
    found = architecture_of(contents.weights, contents.prefix)
    if found != UNKNOWN:
        return found
    names = [key[len(contents.prefix) :] for key in contents.weights if key.startswith(contents.prefix)]
    for family, marks in _MARKS:
        if all(any(name.startswith(mark) for name in names) for mark in marks):
            return family
    return UNKNOWN
