"""A ComfyUI node pack without nodes: it registers the tiny SDXL of the tests and the demo."""

from .architecture import register

register()

NODE_CLASS_MAPPINGS: dict[str, type] = {}
