"""JSON that a file holds, whoever has written it."""

from __future__ import annotations

import json
from typing import Any


def parsed(text: str | bytes) -> Any:
    """What stands in it; ``None`` for what is not JSON, or is nested deeper than Python follows."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def names_in(text: str | bytes) -> list[str] | None:
    """The list of names that it is; ``None`` for what is none."""
    found = parsed(text)
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else None
