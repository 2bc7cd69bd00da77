"""What server and browser tests share: which ComfyUI."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def comfyui() -> Path:
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("COMFYUI_PATH names no ComfyUI checkout; 'nox -s tests' installs one and sets it")
    return Path(path)
