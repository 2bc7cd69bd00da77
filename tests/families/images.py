"""Families that make single images."""

from __future__ import annotations

import torch

from tests.families.family import (
    HUNYUAN_VIDEO,
    IN_CHECKPOINTS,
    TWO_HEADS,
    UNET,
    Family,
    constant,
    inpainting,
    norms_by_scale,
    reference,
)

_SDXL = UNET | {
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
_ERNIE = {
    "image_model": "ernie", "hidden_size": 128, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 256,
    "in_channels": 128, "out_channels": 128, "text_in_dim": 96, "rope_axes_dim": (16, 24, 24),
}  # fmt: skip
_HYDIT = {
    "image_model": "hydit", "depth": 2, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 4.0, "input_size": (16, 16),
    "text_states_dim": 48, "text_states_dim_t5": 64, "text_len": 77, "text_len_t5": 20, "size_cond": True,
    "use_style_cond": True,
}  # fmt: skip
_HUNYUAN_IMAGE = HUNYUAN_VIDEO | {
    "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "vec_in_dim": None, "axes_dim": [64, 64],
}  # fmt: skip
_IMAGE4, _IMAGE16 = (4, 16, 16), (16, 16, 16)
_GUIDED = constant(guidance=3.5)


IMAGES: dict[str, Family] = {
    "SD 1.5": Family(
        "SD15", UNET | {"num_heads": 8, "num_head_channels": -1}, (77, 48), _IMAGE4, 32, force=True,
        prefix=IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SD 2.1, v-prediction": Family(
        "SD20",
        UNET | {"use_linear_in_transformer": True, "num_head_channels": 64, "num_heads": -1, "model_channels": 64},
        (77, 48), _IMAGE4, 32, force=True, prefix=IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SDXL": Family(
        "SDXL", _SDXL, (77, 48), _IMAGE4, 1280, force=True, post=_HEADS, prefix=IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SDXL inpainting, 9 channels": Family(
        "SDXL", _SDXL | {"in_channels": 9}, (77, 48), _IMAGE4, 1280, inpainting, force=True, post=_HEADS,
        prefix=IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SDXL refiner": Family(
        "SDXLRefiner", _SDXL | {"adm_in_channels": 2560}, (77, 48), _IMAGE4, 1280, force=True, post=_HEADS,
        prefix=IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "SD 3.5": Family(
        "SD3", _SD3, (77, 96), _IMAGE16, 64, prefix=IN_CHECKPOINTS, dtype=torch.float16,
    ),
    "Flux": Family("Flux", _FLUX, (32, 64), _IMAGE16, 32, _GUIDED, rename=norms_by_scale, post=TWO_HEADS, cfg=1.0),
    "Flux Kontext": Family(
        "Flux", _FLUX, (32, 64), _IMAGE16, 32, lambda g: {"guidance": 3.5, **reference(1, 16, 16, 16)(g)},
        rename=norms_by_scale, post=TWO_HEADS, cfg=1.0, reference="ref_latents",
    ),
    "Flux in a checkpoint": Family(
        "Flux", _FLUX, (32, 64), _IMAGE16, 32, _GUIDED, rename=norms_by_scale, prefix=IN_CHECKPOINTS,
        post=TWO_HEADS, cfg=1.0
    ),
    "Flux in diffusers' layout": Family(
        "Flux", _FLUX, (32, 64), _IMAGE16, 32, _GUIDED, layout="diffusers", post=TWO_HEADS, cfg=1.0
    ),
    "SD 3.5 in diffusers' layout": Family(
        "SD3", _SD3, (77, 96), _IMAGE16, 64, dtype=torch.float16, layout="diffusers"
    ),
    "SDXL in diffusers' layout": Family(
        "SDXL", _SDXL, (77, 48), _IMAGE4, 1280, force=True, post=_HEADS, dtype=torch.float16, layout="diffusers"
    ),
    "Flux.2": Family(
        "Flux2", _FLUX2, (64, 96), (128, 8, 8), 0, lambda g: {"guidance": 4.0, **reference(1, 128, 8, 8)(g)},
        rename=norms_by_scale, cfg=1.0, reference="ref_latents",
    ),
    "Chroma": Family(
        "Chroma", _CHROMA, (32, 96), _IMAGE16, post={"out_dim": 256, "hidden_dim": 96, "n_layers": 2},
        rename=norms_by_scale,
    ),
    "Z-Image": Family("ZImage", _Z_IMAGE, (20, 96), _IMAGE16, force=True, post=_Z_IMAGE),
    "Lumina 2": Family(
        "Lumina2", _LUMINA2, (20, 96), _IMAGE16, 0, constant(attention_mask=torch.ones(1, 20)), force=True,
        post=_LUMINA2, prefix=IN_CHECKPOINTS,
    ),
    "Qwen-Image": Family("QwenImage", _QWEN, (20, 96), (16, 1, 16, 16), post=_QWEN_HEADS),
    "Qwen-Image-Edit": Family(
        "QwenImage", _QWEN, (20, 96), (16, 1, 16, 16), 0, reference(1, 16, 1, 16, 16), post=_QWEN_HEADS,
        reference="ref_latents",
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
        lambda g: {"attention_mask": torch.ones(1, 20, dtype=torch.long), **reference(1, 16, 16, 16)(g)},
        force=True, post=_OMNIGEN2,
        reference="ref_latents",
    ),
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
        "HunyuanImage21", _HUNYUAN_IMAGE, (20, 96), (64, 16, 16), 0, constant(guidance=6.0), force=True,
        post=_HUNYUAN_IMAGE,
    ),
}  # fmt: skip
