"""The inputs of nodes that sample: KSampler's settings, and the prompts that images are made of."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io


def prompt_inputs(images: str, advice: str = "") -> list[io.Input]:
    """``prompts`` and ``negative``.

    Args:
        images: what the node makes with them, as in "images".
        advice: on the choice of prompts.
    """
    prompts = "One prompt per line, or the name of a text file in the input folder. Empty: a varied list."
    return [
        io.String.Input("prompts", default="", multiline=True, tooltip=f"{prompts} {advice}".rstrip()),
        io.String.Input("negative", default="", multiline=True, tooltip=f"The negative prompt of all {images}."),
    ]


def sampling_inputs(usual: str) -> list[io.Input]:
    """``steps``, ``cfg``, ``sampler_name``, ``scheduler``, ``width`` and ``height``.

    Args: usual: says that a setting is the user's own, as in "that you use".
    """
    return [
        io.Int.Input("steps", default=25, min=1, max=1000, tooltip="Sampling steps of each image."),
        io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip=f"The guidance {usual}."),
        io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip=f"The sampler {usual}."),
        io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip=f"The scheduler {usual}."),
        io.Int.Input("width", default=1024, min=64, max=8192, step=8, tooltip="Width in pixels."),
        io.Int.Input("height", default=1024, min=64, max=8192, step=8, tooltip="Height in pixels."),
    ]


def seed_input(default: int, tooltip: str) -> io.Input:
    """``seed``."""
    return io.Int.Input("seed", default=default, min=0, max=2**63 - 1, tooltip=tooltip)
