"""A server and a browser for the tests of the page. Screenshots are kept in browser_output/."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.page import ComfyPage, chromium
from tests.support.server import REPOSITORY, ComfyServer

OUTPUT = REPOSITORY / "browser_output"


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    frontend = os.environ.get("HSWQ_FRONTEND")  # a folder with another page than the one that this ComfyUI brings
    arguments = ("--front-end-root", frontend) if frontend else ()
    with ComfyServer(comfyui, tmp_path_factory.mktemp("browser"), arguments) as running:
        yield running


@pytest.fixture(scope="session", params=os.environ.get("HSWQ_RENDERERS", "canvas,vue").split(","))
def renderer(request: pytest.FixtureRequest) -> str:
    """How the page draws nodes: on its canvas, or as elements of its own."""
    return request.param


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def opened(server: ComfyServer, browser: Browser, renderer: str) -> Iterator[ComfyPage]:
    """One page for all tests of a renderer: opening one takes longer than most of them."""
    with ComfyPage(server, browser, settings={"Comfy.VueNodes.Enabled": renderer == "vue"}) as page:
        yield page


@pytest.fixture
def page(opened: ComfyPage, request: pytest.FixtureRequest) -> Iterator[ComfyPage]:
    """An empty canvas; at the end a screenshot is taken, and no console error may name this pack."""
    opened.clear()
    yield opened
    opened.screenshot(OUTPUT / f"{request.node.name}.png")
    assert not opened.errors


@pytest.fixture
def written(server: ComfyServer) -> Callable[[], set[Path]]:
    """All models on disk, wherever."""
    return lambda: set(server.base.rglob("*.safetensors"))
