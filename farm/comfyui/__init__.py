"""A ComfyUI in a process of its own: started, asked over HTTP, and stopped."""

from .client import ComfyUIClient, ServerError
from .server import StartedComfyUI, comfyui_server

__all__ = ["ComfyUIClient", "ServerError", "StartedComfyUI", "comfyui_server"]
