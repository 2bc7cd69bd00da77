"""What a process takes of memory, as Linux tells it."""

from __future__ import annotations

import re
from pathlib import Path


def resident(kind: str, process: int | str = "self") -> int:
    """Resident bytes of a process: now (VmRSS), at most so far (VmHWM), what no file backs (RssAnon), files (RssFile).

    Unlike ``ru_maxrss``, the most so far does not begin with that of the process that started this one.
    """
    found = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def reset_peak() -> None:
    """Let VmHWM of this process begin again at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
