"""The archive that the registry gets: it installs into a clean ComfyUI, is quick to import, and runs."""

import os
import re
import shutil
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.support import workflows as w
from tests.support.server import ComfyServer

_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The archive unpacked, as the registry's installer does."""
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(os.environ["HSWQ_ARCHIVE"]) as archive:
        archive.extractall(folder)
    return folder


def test_it_holds_what_is_needed_and_nothing_else(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()}
    needed = {"__init__.py", "hswq_core", "loader", "nodes", "web", "locales", "example_workflows", "README.md"}
    assert needed <= names and "LICENSE" in names and "pyproject.toml" in names
    assert not names & {"tests", "benchmarks", "showcase", "noxfile.py"}


def test_every_help_page_and_every_link_opens(comfyui: Path, installed: Path, tmp_path: Path) -> None:
    """The page asks for a node's help under the name of the pack's folder, and for links relative to it."""
    with ComfyServer(comfyui, tmp_path / "comfyui", pack=installed) as server:

        def opened(path: str) -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/extensions/ComfyUI-HSWQ/{path}") as answer:
                return answer.read()

        nodes = [name for name in server.get("/object_info") if name.startswith("HSWQ")]
        assert len(nodes) == 13
        for name in nodes:
            text = opened(f"docs/{name}.md").decode("utf-8")
            assert text.startswith("# "), name
            for link in _LINK.findall(text):
                if not link.startswith(("http", "#")):
                    assert opened(f"docs/{link}")
    for link in _LINK.findall((installed / "README.md").read_text("utf-8")):
        if not link.startswith(("http", "#")):
            assert (installed / link.partition("#")[0]).is_file(), link


@pytest.mark.parametrize("missing", [(), ("web", "locales", "example_workflows", "README.md")], ids=["whole", "bare"])
def test_it_runs_in_a_clean_comfyui(comfyui: Path, installed: Path, tmp_path: Path, missing: tuple[str, ...]) -> None:
    for name in missing:
        path = installed / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with ComfyServer(comfyui, tmp_path / "comfyui", pack=installed) as server:
        flow = w.calibrated("cal", session="package", steps=2)
        flow |= w.quantize(["calibrate", 1], ["cal_sampler", 0], filename="packed")
        server.run(flow)
        server.get("/object_info")
        outputs = server.run(w.hswq_loaded("packed", "packed.safetensors", steps=2))
        assert server.images(outputs, "packed_image")[0].exists()
        # ComfyUI prints how long each pack took to import.
        found = re.search(r"([0-9.]+) seconds: .*ComfyUI-HSWQ", server.log)
        assert found is not None and float(found[1]) <= 0.3
