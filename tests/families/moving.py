"""Families that make videos, sound and shapes."""

from __future__ import annotations

import torch

from tests.families.family import (
    HUNYUAN_VIDEO,
    IN_CHECKPOINTS,
    TWO_HEADS,
    UNET,
    Family,
    constant,
    first_frame,
    norms_by_scale,
    vace,
)

_WAN = {
    "image_model": "wan2.1", "dim": 256, "out_dim": 16, "num_heads": 2, "ffn_dim": 512, "num_layers": 2,
    "patch_size": (1, 2, 2), "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True,
    "eps": 1e-6, "in_dim": 16, "model_type": "t2v", "text_dim": 96,
}  # fmt: skip
_WAN_TEXT = {"text_dim": 96}
_LTX = {
    "image_model": "ltxv", "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 32,
    "cross_attention_dim": 256, "caption_channels": 96, "in_channels": 128,
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
_HUNYUAN_15 = HUNYUAN_VIDEO | {
    "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None, "guidance_embed": False,
}  # fmt: skip
_SHAPE21 = {
    "image_model": "hunyuan3d2_1", "in_channels": 64, "hidden_size": 128, "context_dim": 96, "depth": 4,
    "num_heads": 4, "qkv_bias": False, "num_moe_layers": 2, "num_experts": 4, "moe_top_k": 2,
}  # fmt: skip
_SVD = UNET | {
    "in_channels": 8, "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 768,
    "use_temporal_attention": True, "use_temporal_resblock": True, "extra_ff_mix_layer": True,
    "merge_strategy": "learned_with_images", "merge_factor": 0.5, "disable_temporal_crossattention": False,
    "video_kernel_size": [3, 1, 1], "num_head_channels": 64, "num_heads": -1, "model_channels": 64,
    "use_spatial_context": True,
}  # fmt: skip
_SV3D = _SVD | {"adm_in_channels": 1280}

_VIDEO = (16, 3, 8, 8)

MOVING: dict[str, Family] = {
    "HunyuanVideo in Tencent's layout": Family(
        "HunyuanVideo", HUNYUAN_VIDEO, (20, 96), _VIDEO, 768, constant(guidance=6.0), post=TWO_HEADS,
        layout="tencent", cfg=1.0
    ),
    "Wan 2.1, text to video": Family("WAN21_T2V", _WAN, (20, 96), _VIDEO, post=_WAN_TEXT),
    "Wan 2.1, image to video": Family(
        "WAN21_I2V", _WAN | {"model_type": "i2v", "in_dim": 36}, (20, 96), _VIDEO, 0, first_frame, post=_WAN_TEXT
    ),
    "Wan 2.1 VACE": Family(
        "WAN21_Vace", _WAN | {"model_type": "vace", "vace_layers": 2, "vace_in_dim": 96}, (20, 96), _VIDEO, 0, vace,
        post=_WAN_TEXT, reference="vace_context",
    ),
    "Wan 2.2 5B": Family("WAN22_T2V", _WAN | {"in_dim": 48, "out_dim": 48}, (20, 96), (48, 3, 8, 8), post=_WAN_TEXT),
    "HunyuanVideo": Family(
        "HunyuanVideo", HUNYUAN_VIDEO, (20, 96), _VIDEO, 768, constant(guidance=6.0), post=TWO_HEADS, cfg=1.0
    ),
    "HunyuanVideo as ComfyUI saves it": Family(
        "HunyuanVideo", HUNYUAN_VIDEO, (20, 96), _VIDEO, 768, constant(guidance=6.0), post=TWO_HEADS,
        prefix="model.model.", cfg=1.0
    ),
    "LTX-Video": Family(
        "LTXV", _LTX, (20, 96), (128, 3, 4, 4), 0,
        constant(frame_rate=25, attention_mask=torch.ones(1, 20, dtype=torch.long)), post={"caption_channels": 96},
    ),
    "Hunyuan3D 2": Family(
        "Hunyuan3Dv2", _SHAPE, (20, 96), (64, 40), rename=norms_by_scale, prefix="model.", dtype=torch.float16
    ),
    "Cosmos 1": Family(
        "CosmosT2V", _COSMOS, (20, 96), (16, 2, 16, 16), 0, constant(attention_mask=torch.ones(1, 20)), force=True,
        post=_COSMOS, prefix="net.",
    ),
    "Kandinsky 5": Family(
        "Kandinsky5", _KANDINSKY5, (20, 96), _VIDEO, 64, force=True, post=_KANDINSKY5
    ),
    "CogVideoX": Family("CogVideoX_T2V", _COGVIDEO, (20, 96), _VIDEO, force=True, post=_COGVIDEO),
    "HunyuanVideo 1.5": Family(
        "HunyuanVideo15", _HUNYUAN_15, (20, 96), (32, 3, 8, 8), 768, force=True, post=_HUNYUAN_15
    ),
    "Stable Video Diffusion": Family(
        "SVD_img2vid", _SVD, (1, 48), (4, 16, 16), 0,
        lambda g: {"concat_latent_image": torch.randn(1, 4, 16, 16, generator=g)}, force=True, post=_SVD,
        prefix=IN_CHECKPOINTS, dtype=torch.float16, frames=3,
    ),
    "SV3D, cameras by angle": Family(
        "SV3D_p", _SV3D, (1, 48), (4, 16, 16), 0,
        lambda g: {
            "concat_latent_image": torch.randn(1, 4, 16, 16, generator=g), "elevation": [10.0] * 3,
            "azimuth": [0.0, 120.0, 240.0],
        },
        force=True, post=_SV3D, prefix=IN_CHECKPOINTS, dtype=torch.float16, frames=3,
    ),
    "ACE-Step (sound)": Family(
        "ACEStep", _ACE, (20, 96), (8, 16, 32), 0,
        constant(conditioning_lyrics=torch.arange(10)[None]), force=True, post=_ACE,
    ),
    "Hunyuan3D 2.1 (shapes, experts)": Family(
        "Hunyuan3Dv2_1", _SHAPE21, (20, 96), (64, 40), force=True, post=_SHAPE21, dtype=torch.float16
    ),
}  # fmt: skip
