"""A quantized file as a folder to upload: the model card, hashes, and a description, from the file itself."""

from .publish import About, publish

__all__ = ["About", "publish"]
