"""A ComfyUI node pack without nodes: the server believes that it runs on the device of ``device.py``."""

import sys

NODE_CLASS_MAPPINGS: dict[str, type] = {}

if "comfy" in sys.modules:
    from .in_comfyui import run_on_it

    run_on_it()
