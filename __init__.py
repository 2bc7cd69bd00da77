"""HSWQ: calibrate a diffusion model while it samples, quantize it to FP8, load it with its scales."""

from __future__ import annotations

import importlib.util

WEB_DIRECTORY = "./web"

# Outside ComfyUI (a test runner, the command line of hswq_core) there are no nodes to offer.
if importlib.util.find_spec("comfy_api") is not None and __package__:
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
else:
    __all__ = ["WEB_DIRECTORY"]
