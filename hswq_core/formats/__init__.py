"""The formats, one file each: all that anything else needs to know of them stands there.

A new format is a file here and its name in the list below; ``register`` takes one from elsewhere.
"""

from .base import Form, Format
from .comfy import COMFY
from .comfy_int8 import COMFY_INT8
from .comfy_mixed import COMFY_MIXED
from .int8 import INT8_FORMAT
from .mixed import MIXED
from .v1 import V1
from .v2 import V2

FORMATS: dict[str, Format] = {}
"""By name, in the order in which they are offered."""


def register(form: Format) -> None:
    """Add a format. Errors: ValueError for a name that is taken."""
    if form.name in FORMATS:
        raise ValueError(f"there is a format {form.name} already")
    FORMATS[form.name] = form


for _form in (V1, V2, COMFY, INT8_FORMAT, COMFY_INT8, MIXED, COMFY_MIXED):
    register(_form)

__all__ = [
    "COMFY",
    "COMFY_INT8",
    "COMFY_MIXED",
    "FORMATS",
    "INT8_FORMAT",
    "MIXED",
    "V1",
    "V2",
    "Form",
    "Format",
    "register",
]
