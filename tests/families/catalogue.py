"""Tiny models of ComfyUI's families, by the name that people know the family by."""

from __future__ import annotations

from tests.families.family import Family
from tests.families.images import IMAGES
from tests.families.moving import MOVING

FAMILIES: dict[str, Family] = IMAGES | MOVING
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "the same modules as a family of the table, with other settings": (
        "LotusD", "Stable_Zero123", "SD15_instructpix2pix", "SD21UnclipL", "SD21UnclipH", "SDXL_instructpix2pix",
        "SSD1B", "KOALA_700M", "KOALA_1B", "Segmind_Vega", "SD_X4Upscaler", "SV3D_u", "PixArtAlpha",
        "HunyuanDiT1", "FluxInpaint", "FluxSchnell", "LongCatImage", "HunyuanVideo15_SR_Distilled",
        "HunyuanImage21Refiner", "HunyuanVideoSkyreelsI2V", "HunyuanVideoI2V", "CosmosI2V", "CosmosI2VPredict2",
        "WAN21_FlowRVS", "Hunyuan3Dv2mini", "Kandinsky5Image", "CogVideoX_I2V", "CogVideoX_Inpaint",
    ),
    "not sampled": ("RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3"),
    "ComfyUI's class asserts the full width of its layers": ("GenmoMochi",),
    "opened only together with the other parts of their checkpoint": ("StableAudio", "StableAudio3"),
    "no tiny model is written yet": (
        "Stable_Cascade_C", "Stable_Cascade_B", "LTXAV", "MiniMaxH3", "ZImagePixelSpace", "PiD", "PixelDiTT2I",
        "WAN21_CausalAR_T2V", "WAN21_FunControl2V", "WAN21_Camera", "WAN22_Camera", "WAN22_S2V", "WAN21_HuMo",
        "WAN22_Animate", "WAN_Animate2", "WAN21_SCAIL", "WAN21_SCAIL2", "WAN22_WanDancer", "TripoSplat", "HiDreamO1",
        "SeedVR2", "ChromaRadiance", "ACEStep15", "MiniMaxMusic3", "Boogu", "MageFlow", "JoyImage", "Ideogram4",
        "Lens",
    ),
}  # fmt: skip
"""Other classes of ``comfy.supported_models``, by the reason why they are not here."""
