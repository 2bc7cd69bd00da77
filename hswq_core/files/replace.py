"""Puts what is finished in its place, also where something looks into the file at that moment."""

from __future__ import annotations

import os
import time
from pathlib import Path

_WAITS = (0.05, 0.1, 0.2, 0.3, 0.4)
"""Seconds. On Windows whoever reads a file holds it, and scanners read every new one for a moment."""


def replace(made: Path, target: Path) -> None:
    """Rename a file or folder, over a file that is there. Errors: OSError; both are as they were then."""
    for seconds in _WAITS:
        try:
            os.replace(made, target)
            return
        except PermissionError:
            time.sleep(seconds)
    os.replace(made, target)
