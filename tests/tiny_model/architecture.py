"""The tiny SDXL: an architecture that stock ComfyUI detects, loads and samples like SDXL itself.

It is a subclass of ComfyUI's own ``supported_models.SDXL`` with smaller numbers, a two-layer CLIP text
encoder over a word vocabulary, and pixel space as its latent space, so that a whole checkpoint (UNet,
text encoder, VAE) is 12 MB and the stock nodes render a image with it in a second on a CPU.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import comfy.clip_model
import comfy.latent_formats
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

TEXT_WIDTH = 64
MAX_TOKENS = 77
VOCABULARY_FILE = Path(__file__).parent / "vocabulary.txt"

# The training images' mean and deviation per colour channel in [-1, 1]. SDXL's noise schedule ends
# with a little signal left, so a image whose mean is far from zero could not be drawn from pure noise.
PIXEL_MEAN = (0.759, 0.620, 0.449)
PIXEL_STD = (0.420, 0.489, 0.677)


class PixelLatents(comfy.latent_formats.LatentFormat):
    """Images in [0, 1] <-> zero-mean, unit-variance RGB "latents" of the same size."""

    latent_channels = 3
    # Newer versions resize an empty latent to this ratio. One latent pixel per 8 requested keeps
    # EmptyLatentImage's meaning the same in every version: 256 x 256 asks for 32 x 32 pixels.
    spacial_downscale_ratio = 8

    def __init__(self) -> None:
        self.mean = torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1)
        self.std = torch.tensor(PIXEL_STD).view(1, 3, 1, 1)
        self.latent_rgb_factors = [[s if i == j else 0.0 for j in range(3)] for i, s in enumerate(PIXEL_STD)]
        self.latent_rgb_factors_bias = list(PIXEL_MEAN)

    def process_in(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent - self.mean.to(latent)) / self.std.to(latent)

    def process_out(self, latent: torch.Tensor) -> torch.Tensor:
        return latent * self.std.to(latent) + self.mean.to(latent)


class WordTokenizer:
    """A vocabulary of whole words behind the interface that ComfyUI expects of a CLIP tokenizer."""

    SPECIAL = ("<start>", "<end>", "<unknown>")

    def __init__(self, words: list[str]) -> None:
        self.ids = {word: i for i, word in enumerate((*self.SPECIAL, *words))}

    @classmethod
    def from_pretrained(cls, path: str, **_: Any) -> WordTokenizer:
        return cls(Path(path).read_text(encoding="utf-8").split())

    def __call__(self, text: str) -> dict[str, list[int]]:
        words = re.findall(r"[a-z0-9]+", text.lower())
        return {"input_ids": [0, *(self.ids.get(word, 2) for word in words), 1]}

    def get_vocab(self) -> dict[str, int]:
        return self.ids


class TinyTokenizerL(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        super().__init__(
            tokenizer_path=str(VOCABULARY_FILE),
            tokenizer_class=WordTokenizer,
            max_length=MAX_TOKENS,
            embedding_directory=embedding_directory,
            embedding_size=TEXT_WIDTH,
            tokenizer_data=tokenizer_data or {},
        )


class TinyTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=TinyTokenizerL)


class TinyTextModel(comfy.clip_model.CLIPTextModel):
    """ComfyUI's CLIP text transformer with our vocabulary's embedding table."""

    def __init__(self, config: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config, dtype, device, operations)
        table = operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
        self.set_input_embeddings(table)


class TinyTextEncoder(comfy.sd1_clip.SDClipModel):
    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        words = WordTokenizer.from_pretrained(str(VOCABULARY_FILE)).ids
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=MAX_TOKENS,
            layer="last",
            model_class=TinyTextModel,
            textmodel_json_config={
                "vocab_size": len(words),
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 4 * TEXT_WIDTH,
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "max_position_embeddings": MAX_TOKENS,
                "hidden_act": "quick_gelu",
                "eos_token_id": 1,
            },
            special_tokens={"start": 0, "end": 1, "pad": 1},
            model_options=model_options or {},
        )


class TinyClip(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__(device, dtype, model_options or {}, clip_model=TinyTextEncoder)


TEXT_PREFIX = "conditioner.embedders.0."


class TinySDXL(comfy.supported_models.SDXL):
    unet_config: ClassVar[dict[str, Any]] = {
        "model_channels": 32,
        "use_linear_in_transformer": True,
        "transformer_depth": [0, 1, 2],
        "context_dim": TEXT_WIDTH,
        "adm_in_channels": TEXT_WIDTH + 6 * 256,
        "use_temporal_attention": False,
    }
    unet_extra_config: ClassVar[dict[str, Any]] = {"num_heads": -1, "num_head_channels": 32}
    latent_format = PixelLatents

    def process_clip_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return comfy.utils.state_dict_prefix_replace(state_dict, {TEXT_PREFIX: "clip_l."}, filter_keys=True)

    def process_clip_state_dict_for_saving(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return comfy.utils.state_dict_prefix_replace(state_dict, {"clip_l.": TEXT_PREFIX})

    def clip_target(self, state_dict: Any = None) -> comfy.supported_models_base.ClipTarget:
        return comfy.supported_models_base.ClipTarget(TinyTokenizer, TinyClip)


# What detection reads off the checkpoint's shapes, needed only where no checkpoint exists yet (training).
FULL_UNET_CONFIG = {
    **TinySDXL.unet_config,
    "use_checkpoint": False,
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "in_channels": 3,
    "out_channels": 3,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 4],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "use_temporal_resblock": False,
}
del FULL_UNET_CONFIG["use_temporal_attention"]


def register() -> None:
    """Make ComfyUI's model detection know the tiny SDXL."""
    if TinySDXL not in comfy.supported_models.models:
        comfy.supported_models.models.insert(0, TinySDXL)
