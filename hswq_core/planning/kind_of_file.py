"""What a file without the keys of a diffusion model most likely is: quantizing it would write what nothing can load."""

from __future__ import annotations

import re
from collections.abc import Collection

_LORA = re.compile(r"\.(lora_(up|down|A|B)|hada_w1|lokr_w1)\b")
_MARKS = (
    ("a LoRA", _LORA),
    (
        "a model in the layout of diffusers",
        re.compile(r"^(down_blocks|up_blocks|mid_block|single_transformer_blocks)\."),
    ),
    ("a control net", re.compile(r"^(control_model\.|controlnet_|input_hint_block\.)")),
    ("a VAE", re.compile(r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|down|up)\b")),
    ("a text encoder", re.compile(r"(^|\.)(text_model|embed_tokens|token_embedding|shared)\.|^encoder\.block\.")),
    ("an upscaler", re.compile(r"^(model\.0\.|body\.0\.rdb1|conv_first\.)")),
)
_NATIVE = re.compile(
    r"^(input_blocks|double_blocks|single_blocks|joint_blocks|transformer_blocks|blocks|layers|double_layers|"
    r"single_layers|double_stream_blocks|single_stream_blocks|transformer)\.\d+\."
)
_OF_LANGUAGE = re.compile(r"(^|\.)embed_tokens\.")


def detect_other_kind(keys: Collection[str]) -> str:
    """A name for the file if its keys are not those of a diffusion model as ComfyUI has them; or nothing.

    Args:
        keys: of the part that would be quantized, without their prefix.
    """
    other = any(_LORA.search(key) or _OF_LANGUAGE.search(key) for key in keys)
    if not other and any(_NATIVE.match(key) for key in keys):
        return ""
    return next((name for name, mark in _MARKS if any(mark.search(key) for key in keys)), "")
