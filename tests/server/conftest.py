"""One real server for all server tests; COMFYUI_PATH says which ComfyUI."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import ComfyServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("COMFYUI_PATH names no ComfyUI checkout; 'nox -s tests' installs one and sets it")
    return Path(path)


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(comfyui, tmp_path_factory.mktemp("comfyui")) as running:
        yield running
