"""What the registry's archive holds, by the list of its files: help for every node, and all that README points to."""

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def files() -> set[str]:
    """As noxfile's build_archive takes them."""

    def listed(*arguments: str) -> set[str]:
        command = ["git", "ls-files", "-z", *arguments]
        return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"))

    return listed() - listed("-c", "-i", "--exclude-from=.comfyignore") - {""}


def test_every_node_has_its_help_page(files: set[str]) -> None:
    texts = (path.read_text("utf-8") for path in (ROOT / "nodes").glob("*.py"))
    nodes = {name for text in texts for name in re.findall(r'node_id="(HSWQ\w+)"', text)}
    assert len(nodes) == 13
    assert {name for name in nodes if f"web/docs/{name}.md" not in files} == set()


def test_what_the_pages_point_to_is_there(files: set[str]) -> None:
    pages = [name for name in files if name.endswith(".md")]
    assert "README.md" in pages
    for page in pages:
        for link in _LINK.findall((ROOT / page).read_text("utf-8")):
            if not link.startswith(("http", "#")):
                target = (ROOT / page).parent / unquote(link.partition("#")[0])
                assert target.resolve().relative_to(ROOT).as_posix() in files, f"{page} points to {link}"


def test_it_holds_no_tests_and_is_small(files: set[str]) -> None:
    assert not [name for name in files if name.startswith(("tests/", "benchmarks/", "showcase/", ".ci/"))]
    assert sum((ROOT / name).stat().st_size for name in files) < 4_000_000
