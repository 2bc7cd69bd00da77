"""Tiny models of ComfyUI's families: settings of a few layers, and what a sampler gives them.

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
_IN_CHECKPOINTS = "model.diffusion_model."


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


def _constant(**extras: Any) -> Callable[[torch.Generator], dict[str, Any]]:
    return lambda _generator: dict(extras)


def _norms_by_scale(weights: StateDict) -> StateDict:
    """As Black Forest Labs names the norms of queries and keys."""
    return {(k[:-7] + ".scale" if k.endswith("_norm.weight") else k): v for k, v in weights.items()}


def _reference(*shape: int) -> Callable[[torch.Generator], dict[str, Any]]:
    return lambda generator: {"reference_latents": [torch.randn(shape, generator=generator)]}


def _inpainting(generator: torch.Generator) -> dict[str, Any]:
    return {
        "concat_latent_image": torch.randn(1, 4, 16, 16, generator=generator),
        "concat_mask": torch.ones(1, 1, 128, 128),
    }


def _first_frame(generator: torch.Generator) -> dict[str, Any]:
    vision = SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, 1280, generator=generator))
    return {
        "concat_latent_image": torch.randn(1, 16, 3, 8, 8, generator=generator),
        "concat_mask": torch.ones(1, 1, 3, 8, 8),
        "clip_vision_output": vision,
    }


def _vace(generator: torch.Generator) -> dict[str, Any]:
    return {
        "vace_frames": [torch.randn(1, 32, 3, 8, 8, generator=generator)],
        "vace_mask": [torch.ones(1, 64, 3, 8, 8)],
        "vace_strength": [1.0],
    }


_UNET = {
    "use_checkpoint": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False, "in_channels": 4,
    "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
    "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
    "context_dim": 48, "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
    "use_temporal_resblock": False,
}  # fmt: skip
_SDXL = _UNET | {
    "use_linear_in_transformer": True, "num_head_channels": 32, "num_heads": -1, "num_classes": "sequential",
    "adm_in_channels": 2816, "transformer_depth": [0, 2], "transformer_depth_output": [0, 0, 2, 2],
    "transformer_depth_middle": 2,
}  # fmt: skip
_HEADS = {"num_head_channels": 32, "num_heads": -1}
_FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 32,
    "context_in_dim": 64, "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
_FLUX2 = {
    "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1, "vec_in_dim": None,
    "context_in_dim": 96, "hidden_size": 256, "mlp_ratio": 3.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [32] * 4, "theta": 2000, "qkv_bias": False, "ops_bias": False, "global_modulation": True,
    "mlp_silu_act": True, "guidance_embed": True, "default_ref_method": "index", "ref_index_scale": 10.0,
    "txt_ids_dims": [3],
}  # fmt: skip
_CHROMA = {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 256, "hidden_dim": 96,
    "n_layers": 2, "context_in_dim": 96, "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "patch_size": 2,
    "vec_in_dim": None, "txt_ids_dims": [],
}  # fmt: skip
_SD3 = {
    "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 64,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 96, "out_features": 128}},
    "num_patches": 256, "pos_embed_max_size": 16, "qk_norm": "rms", "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [0],
}  # fmt: skip
_Z_IMAGE = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "cap_feat_dim": 96, "n_layers": 2,
    "qk_norm": True, "n_heads": 8, "n_kv_heads": 8, "axes_dims": [8, 12, 12], "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}  # fmt: skip
_LUMINA2 = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 144, "cap_feat_dim": 96, "n_layers": 2,
    "qk_norm": True, "n_heads": 6, "n_kv_heads": 2, "axes_dims": [8, 8, 8], "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0, "ffn_dim_multiplier": 4.0,
}  # fmt: skip
_QWEN_HEADS = {
    "num_attention_heads": 2, "attention_head_dim": 64, "axes_dims_rope": (16, 24, 24), "joint_attention_dim": 96,
}  # fmt: skip
_QWEN = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 2} | _QWEN_HEADS
_WAN = {
    "image_model": "wan2.1", "dim": 256, "out_dim": 16, "num_heads": 2, "ffn_dim": 512, "num_layers": 2,
    "patch_size": (1, 2, 2), "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True,
    "eps": 1e-6, "in_dim": 16, "model_type": "t2v", "text_dim": 96,
}  # fmt: skip
_WAN_TEXT = {"text_dim": 96}
_HUNYUAN_VIDEO = {
    "image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16, "vec_in_dim": 768,
    "axes_dim": [16, 56, 56], "meanflow": False, "context_in_dim": 96, "hidden_size": 256, "mlp_ratio": 4.0,
    "num_heads": 2, "depth": 1, "depth_single_blocks": 2, "theta": 256, "qkv_bias": True, "byt5": False,
    "guidance_embed": True, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
_LTX = {
    "image_model": "ltxv", "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 32,
    "cross_attention_dim": 256, "caption_channels": 96, "in_channels": 128,
}  # fmt: skip
_PREDICT2 = {
    "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 128, "concat_padding_mask": True,
    "crossattn_emb_channels": 96, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30, "use_adaln_lora": True, "adaln_lora_dim": 32,
    "num_blocks": 2, "num_heads": 2, "extra_per_block_abs_pos_emb": False, "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0, "rope_t_extrapolation_ratio": 1.0, "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0, "extra_t_extrapolation_ratio": 1.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
_PIXART = {
    "image_model": "pixart_sigma", "num_heads": 2, "patch_size": 2, "hidden_size": 128, "in_channels": 4, "depth": 2,
    "model_max_length": 300, "input_size": 64, "pe_interpolation": 1, "micro_condition": False,
    "caption_channels": 96,
}  # fmt: skip
_KREA2 = {
    "image_model": "krea2", "features": 256, "channels": 16, "patch": 2, "layers": 2, "heads": 2, "kvheads": 1,
    "txtlayers": 3, "txtdim": 80, "txtheads": 2, "txtkvheads": 2,
}  # fmt: skip
_SHAPE = {
    "image_model": "hunyuan3d2", "in_channels": 64, "context_in_dim": 96, "hidden_size": 256, "mlp_ratio": 4.0,
    "num_heads": 16, "depth": 1, "depth_single_blocks": 1, "qkv_bias": True, "guidance_embed": False,
}  # fmt: skip
_COSMOS = {
    "image_model": "cosmos", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 128, "block_config": "FA-CA-MLP",
    "concat_padding_mask": True, "pos_emb_cls": "rope3d", "pos_emb_learnable": False,
    "pos_emb_interpolation": "crop", "block_x_format": "THWBD", "affline_emb_norm": True, "use_adaln_lora": True,
    "adaln_lora_dim": 32, "num_blocks": 2, "num_heads": 2, "crossattn_emb_channels": 96,
    "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
_HIDREAM = {
    "image_model": "hidream", "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12], "caption_channels": [96, 96],
    "max_resolution": [128, 128], "in_channels": 16, "llama_layers": [0, 1, 1, 0], "num_attention_heads": 4,
    "num_routed_experts": 4, "num_activated_experts": 2, "num_layers": 2, "num_single_layers": 2, "out_channels": 16,
    "patch_size": 2, "text_emb_dim": 64,
}  # fmt: skip
_OMNIGEN2 = {
    "image_model": "omnigen2", "axes_dim_rope": [8, 12, 12], "axes_lens": [1024, 1664, 1664],
    "ffn_dim_multiplier": None, "hidden_size": 128, "in_channels": 16, "multiple_of": 32, "norm_eps": 1e-05,
    "num_attention_heads": 4, "num_kv_heads": 2, "num_layers": 2, "num_refiner_layers": 1, "out_channels": None,
    "patch_size": 2, "text_feat_dim": 96, "timestep_scale": 1000.0,
}  # fmt: skip
_ACE = {
    "audio_model": "ace", "attention_head_dim": 32, "in_channels": 8, "inner_dim": 128, "max_height": 16,
    "max_position": 32768, "max_width": 32768, "mlp_ratio": 2.5, "num_attention_heads": 4, "num_layers": 2,
    "out_channels": 8, "patch_size": [16, 1], "rope_theta": 1000000.0, "speaker_embedding_dim": 512,
    "text_embedding_dim": 96, "ssl_encoder_depths": [8, 8], "ssl_latent_dims": [64, 64],
    "ssl_names": ["mert", "m-hubert"], "lyric_encoder_vocab_size": 100, "lyric_hidden_size": 1024,
}  # fmt: skip
_KANDINSKY5 = {
    "image_model": "kandinsky5", "in_visual_dim": 16, "out_visual_dim": 16, "in_text_dim": 96, "in_text_dim2": 64,
    "time_dim": 64, "model_dim": 128, "ff_dim": 256, "visual_embed_dim": 132, "num_text_blocks": 1,
    "num_visual_blocks": 2, "axes_dims": (8, 12, 12), "rope_scale_factor": (1.0, 1.0, 1.0),
}  # fmt: skip
_COGVIDEO = {
    "image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 64, "in_channels": 16,
    "out_channels": 16, "time_embed_dim": 64, "text_embed_dim": 96, "num_layers": 2, "max_text_seq_length": 20,
    "use_rotary_positional_embeddings": True, "sample_width": 16, "sample_height": 16, "sample_frames": 9,
}  # fmt: skip
_ERNIE = {
    "image_model": "ernie", "hidden_size": 128, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 256,
    "in_channels": 128, "out_channels": 128, "text_in_dim": 96, "rope_axes_dim": (16, 24, 24),
}  # fmt: skip
_HYDIT = {
    "image_model": "hydit", "depth": 2, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 4.0, "input_size": (16, 16),
    "text_states_dim": 48, "text_states_dim_t5": 64, "text_len": 77, "text_len_t5": 20, "size_cond": True,
    "use_style_cond": True,
}  # fmt: skip
_HUNYUAN_IMAGE = _HUNYUAN_VIDEO | {
    "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "vec_in_dim": None, "axes_dim": [64, 64],
}  # fmt: skip
_HUNYUAN_15 = _HUNYUAN_VIDEO | {
    "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None, "guidance_embed": False,
}  # fmt: skip
_SHAPE21 = {
    "image_model": "hunyuan3d2_1", "in_channels": 64, "hidden_size": 128, "context_dim": 96, "depth": 4,
    "num_heads": 4, "qkv_bias": False, "num_moe_layers": 2, "num_experts": 4, "moe_top_k": 2,
}  # fmt: skip
_SVD = _UNET | {
    "in_channels": 8, "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 768,
    "use_temporal_attention": True, "use_temporal_resblock": True, "extra_ff_mix_layer": True,
    "merge_strategy": "learned_with_images", "merge_factor": 0.5, "disable_temporal_crossattention": False,
    "video_kernel_size": [3, 1, 1], "num_head_channels": 64, "num_heads": -1, "model_channels": 64,
    "use_spatial_context": True,
}  # fmt: skip
_IMAGE4, _IMAGE16, _VIDEO = (4, 16, 16), (16, 16, 16), (16, 3, 8, 8)
_GUIDED = _constant(guidance=3.5)

FAMILIES: dict[str, Family] = {
    "SD 1.5": Family(
        "SD15", _UNET | {"num_heads": 8, "num_head_channels": -1}, (77, 48), _IMAGE4, 32, force=True,
        prefix=_IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SD 2.1, v-prediction": Family(
        "SD20",
        _UNET | {"use_linear_in_transformer": True, "num_head_channels": 64, "num_heads": -1, "model_channels": 64},
        (77, 48), _IMAGE4, 32, force=True, prefix=_IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SDXL": Family(
        "SDXL", _SDXL, (77, 48), _IMAGE4, 1280, force=True, post=_HEADS, prefix=_IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SDXL inpainting, 9 channels": Family(
        "SDXL", _SDXL | {"in_channels": 9}, (77, 48), _IMAGE4, 1280, _inpainting, force=True, post=_HEADS,
        prefix=_IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SDXL refiner": Family(
        "SDXLRefiner", _SDXL | {"adm_in_channels": 2560}, (77, 48), _IMAGE4, 1280, force=True, post=_HEADS,
        prefix=_IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SD 3.5": Family(
        "SD3", _SD3, (77, 96), _IMAGE16, 64, prefix=_IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "Flux": Family("Flux", _FLUX, (32, 64), _IMAGE16, 32, _GUIDED, rename=_norms_by_scale, cfg=1.0),
    "Flux Kontext": Family(
        "Flux", _FLUX, (32, 64), _IMAGE16, 32, lambda g: {"guidance": 3.5, **_reference(1, 16, 16, 16)(g)},
        rename=_norms_by_scale, cfg=1.0, reference="ref_latents",
    ),
    "Flux in a checkpoint": Family(
        "Flux", _FLUX, (32, 64), _IMAGE16, 32, _GUIDED, rename=_norms_by_scale, prefix=_IN_CHECKPOINTS, cfg=1.0
    ),
    "Flux in diffusers' layout": Family(
        "Flux", _FLUX, (32, 64), _IMAGE16, 32, _GUIDED, layout="diffusers", cfg=1.0
    ),
    "SD 3.5 in diffusers' layout": Family(
        "SD3", _SD3, (77, 96), _IMAGE16, 64, dtype=torch.float16, layout="diffusers"
    ),
    "SDXL in diffusers' layout": Family(
        "SDXL", _SDXL, (77, 48), _IMAGE4, 1280, force=True, post=_HEADS, dtype=torch.float16, layout="diffusers"
    ),
    "HunyuanVideo in Tencent's layout": Family(
        "HunyuanVideo", _HUNYUAN_VIDEO, (20, 96), _VIDEO, 768, _constant(guidance=6.0), layout="tencent", cfg=1.0
    ),
    "Flux.2": Family(
        "Flux2", _FLUX2, (64, 96), (128, 8, 8), 0, lambda g: {"guidance": 4.0, **_reference(1, 128, 8, 8)(g)},
        rename=_norms_by_scale, cfg=1.0, reference="ref_latents",
    ),
    "Chroma": Family(
        "Chroma", _CHROMA, (32, 96), _IMAGE16, post={"out_dim": 256, "hidden_dim": 96, "n_layers": 2},
        rename=_norms_by_scale,
    ),
    "Z-Image": Family("ZImage", _Z_IMAGE, (20, 96), _IMAGE16, force=True, post=_Z_IMAGE),
    "Lumina 2": Family(
        "Lumina2", _LUMINA2, (20, 96), _IMAGE16, 0, _constant(attention_mask=torch.ones(1, 20)), force=True,
        post=_LUMINA2, prefix=_IN_CHECKPOINTS,
    ),
    "Qwen-Image": Family("QwenImage", _QWEN, (20, 96), (16, 1, 16, 16), post=_QWEN_HEADS),
    "Qwen-Image-Edit": Family(
        "QwenImage", _QWEN, (20, 96), (16, 1, 16, 16), 0, _reference(1, 16, 1, 16, 16), post=_QWEN_HEADS,
        reference="ref_latents",
    ),
    "Wan 2.1, text to video": Family("WAN21_T2V", _WAN, (20, 96), _VIDEO, post=_WAN_TEXT),
    "Wan 2.1, image to video": Family(
        "WAN21_I2V", _WAN | {"model_type": "i2v", "in_dim": 36}, (20, 96), _VIDEO, 0, _first_frame, post=_WAN_TEXT
    ),
    "Wan 2.1 VACE": Family(
        "WAN21_Vace", _WAN | {"model_type": "vace", "vace_layers": 2, "vace_in_dim": 96}, (20, 96), _VIDEO, 0, _vace,
        post=_WAN_TEXT, reference="vace_context",
    ),
    "Wan 2.2 5B": Family("WAN22_T2V", _WAN | {"in_dim": 48, "out_dim": 48}, (20, 96), (48, 3, 8, 8), post=_WAN_TEXT),
    "HunyuanVideo": Family(
        "HunyuanVideo", _HUNYUAN_VIDEO, (20, 96), _VIDEO, 768, _constant(guidance=6.0), cfg=1.0
    ),
    "HunyuanVideo as ComfyUI saves it": Family(
        "HunyuanVideo", _HUNYUAN_VIDEO, (20, 96), _VIDEO, 768, _constant(guidance=6.0), prefix="model.model.", cfg=1.0
    ),
    "LTX-Video": Family(
        "LTXV", _LTX, (20, 96), (128, 3, 4, 4), 0,
        _constant(frame_rate=25, attention_mask=torch.ones(1, 20, dtype=torch.long)), post={"caption_channels": 96},
    ),
    "Cosmos Predict2": Family(
        "CosmosT2IPredict2", _PREDICT2, (20, 96), (16, 1, 16, 16), post=_PREDICT2, prefix="net."
    ),
    "AuraFlow": Family(
        "AuraFlow",
        {"max_seq": 256, "cond_seq_dim": 96, "n_double_layers": 1, "n_layers": 3, "dim": 128, "n_heads": 2,
         "global_conddim": 128},
        (20, 96), _IMAGE4, force=True, post={"dim": 128, "n_heads": 2, "global_conddim": 128}, prefix="model.",
        dtype=torch.float16,
    ),
    "PixArt Sigma": Family("PixArtSigma", _PIXART, (20, 96), (4, 64, 64), post=_PIXART),
    "Krea 2": Family("Krea2", _KREA2, (20, 240), _IMAGE16, post={"txtheads": 2, "txtkvheads": 2}),
    "Hunyuan3D 2": Family(
        "Hunyuan3Dv2", _SHAPE, (20, 96), (64, 40), rename=_norms_by_scale, prefix="model.", dtype=torch.float16
    ),
    "Cosmos 1": Family(
        "CosmosT2V", _COSMOS, (20, 96), (16, 2, 16, 16), 0, _constant(attention_mask=torch.ones(1, 20)), force=True,
        post=_COSMOS, prefix="net.",
    ),
    "Anima": Family(
        "Anima", _PREDICT2 | {"image_model": "anima"}, (20, 96), (16, 1, 16, 16), force=True,
        post=_PREDICT2 | {"image_model": "anima"}, prefix="net.",
    ),
    "HiDream I1": Family(
        "HiDream", _HIDREAM, (20, 96), _IMAGE16, 64,
        lambda g: {"conditioning_llama3": torch.randn(1, 2, 20, 96, generator=g)}, force=True, post=_HIDREAM,
    ),
    "OmniGen2": Family(
        "Omnigen2", _OMNIGEN2, (20, 96), _IMAGE16, 0,
        lambda g: {"attention_mask": torch.ones(1, 20, dtype=torch.long), **_reference(1, 16, 16, 16)(g)},
        force=True, post=_OMNIGEN2,
        reference="ref_latents",
    ),
    "Kandinsky 5": Family(
        "Kandinsky5", _KANDINSKY5, (20, 96), _VIDEO, 64, force=True, post=_KANDINSKY5
    ),
    "CogVideoX": Family("CogVideoX_T2V", _COGVIDEO, (20, 96), _VIDEO, force=True, post=_COGVIDEO),
    "ERNIE-Image": Family("ErnieImage", _ERNIE, (20, 96), (128, 8, 8), force=True, post=_ERNIE),
    "Hunyuan-DiT": Family(
        "HunyuanDiT", _HYDIT, (77, 48), _IMAGE4, 0,
        lambda g: {
            "attention_mask": torch.ones(1, 77), "conditioning_mt5xl": torch.randn(1, 20, 64, generator=g),
            "attention_mask_mt5xl": torch.ones(1, 20),
        },
        force=True, post=_HYDIT, prefix="model.", dtype=torch.float16,
    ),
    "HunyuanImage 2.1": Family(
        "HunyuanImage21", _HUNYUAN_IMAGE, (20, 96), (64, 16, 16), 0, _constant(guidance=6.0), force=True,
        post=_HUNYUAN_IMAGE,
    ),
    "HunyuanVideo 1.5": Family(
        "HunyuanVideo15", _HUNYUAN_15, (20, 96), (32, 3, 8, 8), 768, force=True, post=_HUNYUAN_15
    ),
    "Stable Video Diffusion": Family(
        "SVD_img2vid", _SVD, (1, 48), (4, 16, 16), 0,
        lambda g: {"concat_latent_image": torch.randn(1, 4, 16, 16, generator=g)}, force=True, post=_SVD,
        prefix=_IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "ACE-Step (sound)": Family(
        "ACEStep", _ACE, (20, 96), (8, 16, 32), 0,
        _constant(conditioning_lyrics=torch.arange(10)[None]), force=True, post=_ACE,
    ),
    "Hunyuan3D 2.1 (shapes, experts)": Family(
        "Hunyuan3Dv2_1", _SHAPE21, (20, 96), (64, 40), force=True, post=_SHAPE21, dtype=torch.float16
    ),
}  # fmt: skip
"""By the name that people know the family by."""

LEFT_OUT = {
    "Mochi": "ComfyUI's class asserts the full width of its layers",
}
"""Families without a tiny model, and why."""
