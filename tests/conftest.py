"""What the tests share: marks by folder, and which ComfyUI."""

import os
from pathlib import Path

import pytest

_MARKED = ("server", "browser", "package", "stress")
_LONG_FIRST = ("farm", "families", "browser", "server", "core")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks, and long files first: where two processes share the files, both then end at about the same time."""
    folders = {item.path: item.path.relative_to(Path(__file__).parent).parts[0] for item in items}
    for item in items:
        if folders[item.path] in _MARKED:
            item.add_marker(folders[item.path])
    order = {folder: place for place, folder in enumerate(_LONG_FIRST)}
    items.sort(key=lambda item: order.get(folders[item.path], len(order)))


@pytest.fixture(scope="session")
def comfyui() -> Path:
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("COMFYUI_PATH names no ComfyUI checkout; 'nox -s tests' installs one and sets it")
    return Path(path)
