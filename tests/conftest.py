"""What the tests share: marks by folder, which ComfyUI, and what stays in one process where there are several."""

import os
from pathlib import Path
from typing import Any

import pytest

_MARKED = ("server", "browser", "package", "stress")
_LONG_FIRST = ("browser", "farm", "families", "server", "core")
DEFAULT, FP8_STORAGE = "probing:default", "probing:fp8-storage"
"""Of prepared servers, in the name of a test that takes one: each takes half a minute to start, and files share it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks, and long files first: where two processes share the files, both then end at about the same time."""
    folders = {item.path: item.path.relative_to(Path(__file__).parent).parts[0] for item in items}
    for item in items:
        if folders[item.path] in _MARKED:
            item.add_marker(folders[item.path])
    order = {folder: place for place, folder in enumerate(_LONG_FIRST)}
    items.sort(key=lambda item: order.get(folders[item.path], len(order)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", metavar="NAME", help="add what was run, under this name, to docs/compatibility.json")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    name = config.getoption("--record")
    if name:
        from showcase.compatibility import write_page
        from tests.support import run_record

        passed, failed, errors, skipped = (
            len(terminalreporter.stats.get(kind, ())) for kind in ("passed", "failed", "error", "skipped")
        )
        run_record.add(run_record.this_run(name, passed, failed + errors, skipped))
        write_page()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share a server stay in one process: those of a file, and of all files those of a prepared server.

    Those of the page share a browser, too: two of them at once would leave each other no time to draw.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            shared = next((name for name in (DEFAULT, FP8_STORAGE, "tests/browser/") if name in nodeid), "")
            return shared or nodeid.partition("::")[0]

    return ByServer(config, log)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("COMFYUI_PATH names no ComfyUI checkout; 'nox -s tests' installs one and sets it")
    return Path(path)
