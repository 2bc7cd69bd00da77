"""Tiny models of ComfyUI's families, by the name that people know the family by."""

from __future__ import annotations

from tests.families.family import Family
from tests.families.images import IMAGES
from tests.families.moving import MOVING

FAMILIES: dict[str, Family] = IMAGES | MOVING
LEFT_OUT = {
    "Mochi": "ComfyUI's class asserts the full width of its layers",
}
"""Families without a tiny model, and why."""
