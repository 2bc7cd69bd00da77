"""The formats, one file each: what it writes for a quantized layer, and which layers it can hold."""

from .base import Format
from .comfy import COMFY
from .int8 import COMFY_INT8, COMFY_INT8_ROTATED, INT8_FORMAT
from .v1 import V1
from .v2 import V2

FORMATS: dict[str, Format] = {f.name: f for f in (V1, V2, COMFY, INT8_FORMAT, COMFY_INT8)}

__all__ = ["COMFY", "COMFY_INT8", "COMFY_INT8_ROTATED", "FORMATS", "INT8_FORMAT", "V1", "V2", "Format"]
