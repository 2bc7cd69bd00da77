"""A module that runs ComfyUI in a process of its own and tells what it found as JSON, in its last line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.server import REPOSITORY


def told_by(module: str, comfyui: Path) -> Any:
    """What ``python -m MODULE --comfyui DIR`` tells."""
    command = [sys.executable, "-m", module, "--comfyui", str(comfyui)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
