"""What a checkpoint of SDXL holds beside the UNet, tensor for tensor: two text encoders and the VAE."""

from __future__ import annotations

from .sdxl_shapes import Shape

TOKENS, LENGTH = 49408, 77


class _Tensors:
    """Collects tensors under a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.found: dict[str, Shape] = {}

    def weight(self, name: str, *shape: int) -> None:
        """One with a bias."""
        self.found[f"{self.prefix}{name}.weight"] = shape
        self.found[f"{self.prefix}{name}.bias"] = shape[:1]

    def bare(self, name: str, *shape: int) -> None:
        self.found[f"{self.prefix}{name}"] = shape

    def conv(self, name: str, out: int, inp: int, size: int = 3) -> None:
        self.weight(name, out, inp, size, size)


def sdxl_rest() -> dict[str, Shape]:
    """All by their names in the file: CLIP-L, CLIP-G and the VAE; 901 million numbers."""
    return {**_clip_l(), **_clip_g(), **_vae()}


def _clip_l() -> dict[str, Shape]:
    width = 768
    made = _Tensors("conditioner.embedders.0.transformer.text_model.")
    made.bare("embeddings.token_embedding.weight", TOKENS, width)
    made.bare("embeddings.position_embedding.weight", LENGTH, width)
    for number in range(12):
        layer = f"encoder.layers.{number}."
        for part in ("q", "k", "v", "out"):
            made.weight(f"{layer}self_attn.{part}_proj", width, width)
        made.weight(f"{layer}mlp.fc1", 4 * width, width)
        made.weight(f"{layer}mlp.fc2", width, 4 * width)
        for norm in ("layer_norm1", "layer_norm2"):
            made.weight(layer + norm, width)
    made.weight("final_layer_norm", width)
    return made.found


def _clip_g() -> dict[str, Shape]:
    width = 1280
    made = _Tensors("conditioner.embedders.1.model.")
    made.bare("token_embedding.weight", TOKENS, width)
    made.bare("positional_embedding", LENGTH, width)
    made.bare("text_projection", width, width)
    made.bare("logit_scale")
    for number in range(32):
        block = f"transformer.resblocks.{number}."
        made.bare(f"{block}attn.in_proj_weight", 3 * width, width)
        made.bare(f"{block}attn.in_proj_bias", 3 * width)
        made.weight(f"{block}attn.out_proj", width, width)
        made.weight(f"{block}mlp.c_fc", 4 * width, width)
        made.weight(f"{block}mlp.c_proj", width, 4 * width)
        for norm in ("ln_1", "ln_2"):
            made.weight(block + norm, width)
    made.weight("ln_final", width)
    return made.found


def _vae() -> dict[str, Shape]:
    made = _Tensors("first_stage_model.")
    widths, deepest = (128, 256, 512, 512), 512

    def block(name: str, inp: int, out: int) -> None:
        made.weight(f"{name}.norm1", inp)
        made.conv(f"{name}.conv1", out, inp)
        made.weight(f"{name}.norm2", out)
        made.conv(f"{name}.conv2", out, out)
        if inp != out:
            made.conv(f"{name}.nin_shortcut", out, inp, 1)

    def middle(side: str) -> None:
        for number in (1, 2):
            block(f"{side}.mid.block_{number}", deepest, deepest)
        made.weight(f"{side}.mid.attn_1.norm", deepest)
        for part in ("q", "k", "v", "proj_out"):
            made.conv(f"{side}.mid.attn_1.{part}", deepest, deepest, 1)

    made.conv("encoder.conv_in", widths[0], 3)
    inp = widths[0]
    for level, width in enumerate(widths):
        for number in range(2):
            block(f"encoder.down.{level}.block.{number}", inp, width)
            inp = width
        if level < 3:
            made.conv(f"encoder.down.{level}.downsample.conv", width, width)
    middle("encoder")
    made.weight("encoder.norm_out", deepest)
    made.conv("encoder.conv_out", 8, deepest)
    made.conv("quant_conv", 8, 8, 1)
    made.conv("post_quant_conv", 4, 4, 1)
    made.conv("decoder.conv_in", deepest, 4)
    middle("decoder")
    inp = deepest
    for level, width in reversed(list(enumerate(widths))):
        for number in range(3):
            block(f"decoder.up.{level}.block.{number}", inp, width)
            inp = width
        if level:
            made.conv(f"decoder.up.{level}.upsample.conv", width, width)
    made.weight("decoder.norm_out", widths[0])
    made.conv("decoder.conv_out", 3, widths[0])
    return made.found
