"""What the tests share: marks by folder, and which ComfyUI."""

import os
from pathlib import Path

import pytest

_MARKED = ("server", "browser", "package", "stress")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in _MARKED:
            item.add_marker(folder)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("COMFYUI_PATH names no ComfyUI checkout; 'nox -s tests' installs one and sets it")
    return Path(path)
