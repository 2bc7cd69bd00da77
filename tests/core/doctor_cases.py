"""Twenty-odd kinds of files: how each is made, and what is right to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hswq_core import convert
from tests.core import doctor_files as files
from tests.core import doctor_peers as peers

Make = Callable[[Path], Path]
OPENS, FAILS, NOISE, REFUSES, UNKNOWN = "opens", "fails", "noise", "refuses", "unknown"
EACH, ONCE, EIGHT, FOUR, NOT = (
    "expands in each call", "expands when loaded", "computes in 8 bits", "computes in 4 bits", "fails",
)  # fmt: skip
OLD, NEW, OURS, FAST = "ComfyUI 0.3.75", "ComfyUI 0.33", "HSWQ Loader", "HSWQ Loader, fast"


@dataclass(frozen=True)
class Case:
    """Attributes:
    groups: of the diffusion model, with the layers of each and what has a scale.
    opened: by the two versions of ComfyUI and by HSWQ Loader; ``others`` open it, too.
    done: with the Linear layers on an RTX 3060, an RTX 4070 and an RTX 5080, by the loaders that open the file; one
        word where all three do the same.
    lost: the loaders that cast kept layers to FP8 on an RTX 4070.
    bits: of a weight of the first group, without padding.
    findings: what is found that is no damage.
    """

    make: Make
    groups: dict[str, tuple[int, str]]
    opened: tuple[str, str, str]
    done: dict[str, tuple[str, str, str] | str]
    bits: float = 8.0
    others: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    findings: tuple[str, ...] = field(default=())


def made(
    change: Callable[..., files.Tensors],
    more: files.Tensors | None = None,
    metadata: dict[str, str] | None = None,
    *,
    convolutions: bool = False,
) -> Make:
    return lambda folder: files.save(folder, files.each(change, convolutions=convolutions) | (more or {}), metadata)


def packed(change: Callable[..., files.Tensors]) -> Callable[..., files.Tensors]:
    """In blocks: ComfyUI tells models by the shape of the layer before them, which packing changes."""
    return lambda name, weight: {f"{name}.weight": weight} if "label_emb" in name else change(name, weight)


def ours(mode: str) -> Make:
    return lambda folder: files.ours(folder, mode)


def rotated_int8(folder: Path) -> Path:
    """What ComfyUI rotates, converted to HSWQ's own int8."""
    described = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}
    comfy = files.save(folder, files.each(files.integers(described, 64)), name="comfy")
    return convert(comfy, folder / "int8.safetensors", "int8").file


V1_DONE = {OLD: (ONCE, EACH, EACH), NEW: (ONCE, EACH, EACH), OURS: EACH, FAST: (EACH, EIGHT, EIGHT)}
INT8_TENSORWISE = {"format": "int8_tensorwise"}
FP8_SCALED = {"format": "float8_e4m3fn"}
ROTATED = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}

CASES: dict[str, Case] = {
    "HSWQ v1, and plain FP8 of any tool": Case(
        ours("v1"), {"fp8": (9, "none")}, (OPENS, OPENS, OPENS), V1_DONE,
    ),
    "plain FP8, convolutions kept": Case(
        made(files.plain), {"fp8": (7, "none")}, (OPENS, OPENS, OPENS), V1_DONE, lost=(OLD, NEW),
    ),
    "plain FP8 E5M2": Case(
        made(files.e5m2, convolutions=True), {"fp8_e5m2": (9, "none")}, (OPENS, OPENS, OPENS),
        {OLD: (ONCE, EACH, EACH), NEW: (ONCE, EACH, EACH), OURS: EACH, FAST: EACH},
    ),
    "HSWQ v2": Case(
        ours("v2"), {"v2": (9, "tensor")}, (NOISE, NOISE, OPENS), {OURS: EACH, FAST: (EACH, EIGHT, EIGHT)},
    ),
    "HSWQ v2, scales by channel": Case(
        lambda folder: files.ours(folder, "v2", scales="channel"), {"v2": (9, "channel")}, (NOISE, NOISE, OPENS),
        {OURS: EACH, FAST: EACH},
    ),
    "scaled_fp8": Case(
        made(files.scaled(".scale_weight"), files.MARK), {"scaled_fp8": (7, "tensor")}, (OPENS, OPENS, OPENS),
        {OLD: EACH, NEW: EACH, OURS: EACH, FAST: (EACH, EIGHT, EIGHT)},
    ),
    "scaled_fp8 with rounded inputs": Case(
        made(files.scaled(".scale_weight"), files.FAST_MARK), {"scaled_fp8": (7, "tensor")}, (OPENS, OPENS, OPENS),
        {OLD: (EACH, EIGHT, EIGHT), NEW: (EACH, EIGHT, EIGHT), OURS: EACH, FAST: (EACH, EIGHT, EIGHT)},
    ),
    "scaled_fp8 without its mark": Case(
        made(files.scaled(".scale_weight")), {"scaled_fp8": (7, "tensor")}, (NOISE, NOISE, OPENS),
        {OURS: EACH, FAST: (EACH, EIGHT, EIGHT)}, findings=("scales-without-marker",),
    ),
    "scaled_fp8 in E5M2": Case(
        made(files.scaled_e5m2, files.E5M2_MARK), {"scaled_fp8": (7, "tensor")}, (OPENS, NOISE, OPENS),
        {OLD: EACH, OURS: EACH, FAST: EACH},
    ),
    "FP8 with weight_scale alone": Case(
        made(files.scaled(".weight_scale")), {"fp8_weight_scale": (7, "tensor")}, (NOISE, NOISE, OPENS),
        {OURS: EACH, FAST: (EACH, EIGHT, EIGHT)},
    ),
    "ComfyUI FP8 by its header": Case(
        made(files.scaled(".weight_scale"), None, files.HEADER), {"float8_e4m3fn": (7, "tensor")},
        (OPENS, NOISE, OPENS), {OLD: EACH, OURS: EACH, FAST: (EACH, EIGHT, EIGHT)},
    ),
    "HSWQ comfy": Case(
        ours("comfy"), {"float8_e4m3fn": (7, "tensor")}, (NOISE, OPENS, OPENS),
        {NEW: EACH, OURS: EACH, FAST: (EACH, EIGHT, EIGHT)},
    ),
    "ComfyUI FP8, products allowed": Case(
        made(files.scaled(".weight_scale", **FP8_SCALED)), {"float8_e4m3fn": (7, "tensor")}, (NOISE, OPENS, OPENS),
        {NEW: (EACH, EIGHT, EIGHT), OURS: EACH, FAST: (EACH, EIGHT, EIGHT)},
    ),
    "ComfyUI FP8, scales [C_out, 1]": Case(
        made(files.scaled(".weight_scale", by_row=True, **FP8_SCALED)), {"float8_e4m3fn": (7, "channel")},
        (NOISE, OPENS, OPENS), {NEW: EACH, OURS: EACH, FAST: EACH},
    ),
    "ComfyUI FP8, scales [C_out]": Case(
        made(files.flat_scales), {"float8_e4m3fn": (7, "channel")}, (NOISE, FAILS, OPENS), {OURS: EACH, FAST: EACH},
    ),
    "ComfyUI MXFP8": Case(
        made(files.mxfp8), {"mxfp8": (7, "32")}, (NOISE, OPENS, REFUSES), {NEW: (EACH, EACH, EIGHT)}, 8.25,
    ),
    "ComfyUI MXFP8, scales as bytes": Case(
        made(files.mxfp8_bytes), {"mxfp8": (7, "32")}, (NOISE, OPENS, REFUSES), {NEW: (EACH, EACH, EIGHT)}, 8.25,
    ),
    "ComfyUI NVFP4, products allowed": Case(
        made(packed(files.nvfp4_fast)), {"nvfp4": (6, "16")}, (REFUSES, OPENS, OPENS),
        {NEW: (EACH, EACH, FOUR), OURS: EACH, FAST: EACH}, 4.5,
    ),
    "ComfyUI NVFP4, weights alone (as in HSWQ comfy-mixed)": Case(
        made(packed(files.nvfp4)), {"nvfp4": (6, "16")}, (REFUSES, OPENS, OPENS),
        {NEW: EACH, OURS: EACH, FAST: EACH}, 4.5,
    ),
    "ComfyUI NVFP4 in a layer by whose shape it tells models": Case(
        made(files.nvfp4), {"nvfp4": (7, "16")}, (REFUSES, REFUSES, OPENS), {OURS: EACH, FAST: EACH}, 4.5,
    ),
    "ComfyUI INT8 (as in HSWQ comfy-int8)": Case(
        made(files.integers(INT8_TENSORWISE)), {"int8_tensorwise": (7, "channel")}, (NOISE, OPENS, OPENS),
        {NEW: EIGHT, OURS: EACH, FAST: EIGHT},
    ),
    "ComfyUI INT8, rotated": Case(
        made(files.integers(ROTATED, 64)), {"int8_tensorwise": (7, "channel")}, (NOISE, OPENS, OPENS),
        {NEW: EIGHT, OURS: EACH, FAST: EIGHT},
    ),
    "ComfyUI W4A4": Case(
        made(packed(files.w4a4)), {"convrot_w4a4": (6, "channel")}, (REFUSES, OPENS, REFUSES),
        {NEW: (FOUR, FOUR, EACH)}, 4.0,
    ),
    "ComfyUI W4A8": Case(
        made(packed(files.w4a8)), {"asym_w4a8_int8": (6, "16")}, (REFUSES, OPENS, REFUSES), {NEW: EIGHT}, 4.5,
    ),
    "HSWQ int8": Case(
        ours("int8"), {"int8": (9, "channel")}, (REFUSES, REFUSES, OPENS), {OURS: EACH, FAST: EIGHT},
    ),
    "HSWQ int8, rotated": Case(
        rotated_int8, {"int8": (7, "channel")}, (REFUSES, REFUSES, OPENS), {OURS: EACH, FAST: EIGHT},
    ),
    "HSWQ mixed, in 4 bits": Case(
        made(files.hswq_int4, files.REFUSING), {"hswq_int4": (7, "64")}, (REFUSES, REFUSES, OPENS),
        {OURS: EACH, FAST: EACH}, 4.25,
    ),
    "bitsandbytes NF4": Case(
        made(peers.bnb_nf4), {"bnb_nf4": (7, "64")}, (REFUSES, REFUSES, REFUSES),
        {"ComfyUI_bitsandbytes_NF4": EACH, "Forge": EACH}, 4.5, ("ComfyUI_bitsandbytes_NF4", "Forge"),
    ),
    "bitsandbytes INT8": Case(
        made(peers.bnb_int8), {"bnb_int8": (7, "channel")}, (NOISE, NOISE, REFUSES),
        {"diffusers with bitsandbytes": EIGHT}, others=("diffusers with bitsandbytes",),
    ),
    "SVDQuant INT4": Case(
        made(peers.svdquant(False)), {"svdquant_int4": (7, "64")}, (REFUSES, REFUSES, REFUSES),
        {"ComfyUI-nunchaku": (FOUR, FOUR, NOT)}, 4.0, ("ComfyUI-nunchaku",),
    ),
    "SVDQuant NVFP4": Case(
        made(peers.svdquant(True)), {"svdquant_nvfp4": (7, "16")}, (REFUSES, REFUSES, REFUSES),
        {"ComfyUI-nunchaku": (NOT, NOT, FOUR)}, 4.0, ("ComfyUI-nunchaku",),
    ),
    "torchao FP8": Case(
        made(peers.torchao), {"torchao_float8": (7, "channel")}, (REFUSES, REFUSES, REFUSES),
        {"diffusers with torchao": EACH}, others=("diffusers with torchao",),
    ),
    "optimum-quanto INT8": Case(
        made(peers.quanto), {"quanto_int8": (7, "channel")}, (REFUSES, REFUSES, REFUSES),
        {"diffusers with optimum-quanto": EACH}, others=("diffusers with optimum-quanto",),
    ),
    "optimum-quanto INT4": Case(
        made(peers.quanto_int4), {"quanto_int4": (7, "channel")}, (REFUSES, REFUSES, REFUSES),
        {"diffusers with optimum-quanto": EACH}, 4.0, ("diffusers with optimum-quanto",),
    ),
    "GPTQ": Case(made(peers.gptq), {"gptq": (7, "64")}, (REFUSES, REFUSES, REFUSES), {}, 4.0),
    "FP8 in blocks, which ComfyUI does not know": Case(
        made(files.blockwise), {"unknown": (7, "16")}, (NOISE, REFUSES, REFUSES), {}, findings=("unknown-format",),
    ),
    "not quantized": Case(made(lambda name, weight: {f"{name}.weight": weight}), {}, (OPENS, OPENS, OPENS), {}),
}  # fmt: skip
