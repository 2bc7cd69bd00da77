"""The formats, one file each: what it writes for a quantized layer, and which layers it can hold."""

from .base import Format
from .comfy import COMFY
from .v1 import V1
from .v2 import V2

FORMATS: dict[str, Format] = {f.name: f for f in (V1, V2, COMFY)}

__all__ = ["COMFY", "FORMATS", "V1", "V2", "Format"]
