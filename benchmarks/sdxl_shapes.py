"""The true geometry of SDXL and SSD-1B, from their published configurations: every tensor of the UNet."""

from __future__ import annotations

Shape = tuple[int, ...]

CHANNELS, TIME, CONTEXT, ADM = 320, 1280, 2048, 2816
MULTIPLIERS, RES_BLOCKS = (1, 2, 4), 2
Depths = tuple[tuple[int, ...], ...]
"""Transformer blocks of each block of a level, level by level from the finest."""


class _Unet:
    """Collects tensors, block by block."""

    def __init__(self) -> None:
        self.tensors: dict[str, Shape] = {}

    def linear(self, name: str, out: int, inp: int, bias: bool = True) -> None:
        self.tensors[f"{name}.weight"] = (out, inp)
        if bias:
            self.tensors[f"{name}.bias"] = (out,)

    def conv(self, name: str, out: int, inp: int, size: int = 3) -> None:
        self.tensors[f"{name}.weight"] = (out, inp, size, size)
        self.tensors[f"{name}.bias"] = (out,)

    def norm(self, name: str, channels: int) -> None:
        self.tensors[f"{name}.weight"] = self.tensors[f"{name}.bias"] = (channels,)

    def resblock(self, name: str, inp: int, out: int) -> None:
        self.norm(f"{name}.in_layers.0", inp)
        self.conv(f"{name}.in_layers.2", out, inp)
        self.linear(f"{name}.emb_layers.1", out, TIME)
        self.norm(f"{name}.out_layers.0", out)
        self.conv(f"{name}.out_layers.3", out, out)
        if inp != out:
            self.conv(f"{name}.skip_connection", out, inp, 1)

    def transformer(self, name: str, width: int, depth: int) -> None:
        if not depth:
            return
        self.norm(f"{name}.norm", width)
        self.linear(f"{name}.proj_in", width, width)
        for i in range(depth):
            block = f"{name}.transformer_blocks.{i}"
            for attention, context in (("attn1", width), ("attn2", CONTEXT)):
                self.linear(f"{block}.{attention}.to_q", width, width, bias=False)
                self.linear(f"{block}.{attention}.to_k", width, context, bias=False)
                self.linear(f"{block}.{attention}.to_v", width, context, bias=False)
                self.linear(f"{block}.{attention}.to_out.0", width, width)
            self.linear(f"{block}.ff.net.0.proj", width * 8, width)
            self.linear(f"{block}.ff.net.2", width, width * 4)
            for n in (1, 2, 3):
                self.norm(f"{block}.norm{n}", width)
        self.linear(f"{name}.proj_out", width, width)


def sdxl_unet() -> dict[str, Shape]:
    """All 1,680 tensors: 743 Linear and 51 Conv2d weights, 256 norms, biases."""
    return _unet(((0, 0), (2, 2), (10, 10)), 10, ((0, 0, 0), (2, 2, 2), (10, 10, 10)))


def ssd_1b_unet() -> dict[str, Shape]:
    """Half of SDXL's: fewer transformer blocks, and none in the middle."""
    return _unet(((0, 0), (2, 2), (4, 4)), None, ((0, 0, 0), (2, 1, 1), (4, 4, 10)))


def _unet(down: Depths, middle: int | None, up: Depths) -> dict[str, Shape]:
    unet = _Unet()
    unet.linear("time_embed.0", TIME, CHANNELS)
    unet.linear("time_embed.2", TIME, TIME)
    unet.linear("label_emb.0.0", TIME, ADM)
    unet.linear("label_emb.0.2", TIME, TIME)
    unet.conv("input_blocks.0.0", CHANNELS, 4)
    skips, width, index = [CHANNELS], CHANNELS, 1
    for level, multiplier in enumerate(MULTIPLIERS):
        for depth in down[level]:
            unet.resblock(f"input_blocks.{index}.0", width, CHANNELS * multiplier)
            width = CHANNELS * multiplier
            unet.transformer(f"input_blocks.{index}.1", width, depth)
            skips.append(width)
            index += 1
        if level < len(MULTIPLIERS) - 1:
            unet.conv(f"input_blocks.{index}.0.op", width, width)
            skips.append(width)
            index += 1
    unet.resblock("middle_block.0", width, width)
    if middle is not None:
        unet.transformer("middle_block.1", width, middle)
        unet.resblock("middle_block.2", width, width)
    index = 0
    for level, multiplier in reversed(list(enumerate(MULTIPLIERS))):
        for block, depth in enumerate(up[level]):
            unet.resblock(f"output_blocks.{index}.0", width + skips.pop(), CHANNELS * multiplier)
            width = CHANNELS * multiplier
            unet.transformer(f"output_blocks.{index}.1", width, depth)
            if level and block == RES_BLOCKS:
                unet.conv(f"output_blocks.{index}.{2 if depth else 1}.conv", width, width)
            index += 1
    unet.norm("out.0", CHANNELS)
    unet.conv("out.2", 4, CHANNELS)
    return unet.tensors
