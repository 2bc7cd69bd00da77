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
