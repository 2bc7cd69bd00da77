"""What a process takes of memory, as Linux tells it."""

from __future__ import annotations

import re
from pathlib import Path


def resident(kind: str) -> int:
    """Resident bytes of this process, pages of mapped files included: now (VmRSS), or at most so far (VmHWM).

    Unlike ``ru_maxrss``, the most so far does not begin with that of the process that started this one.
    """
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
