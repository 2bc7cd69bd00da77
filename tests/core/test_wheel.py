"""What pip installs: two packages of this project's own names, the page's template, and the added commands."""

from __future__ import annotations

import configparser
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built as pip builds it, from a source distribution."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder], cwd=ROOT, check=True)
    (archive,) = folder.iterdir()
    shutil.unpack_archive(archive, folder)
    source = folder / archive.name.removesuffix(".tar.gz")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=source, check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_nothing_stands_at_the_top_but_what_is_named_for_the_project(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"hswq_core", "hswq_farm"}


def test_every_file_of_both_packages_is_there(wheel: zipfile.ZipFile) -> None:
    names, tracked = set(wheel.namelist()), subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True)
    wanted = {name for name in tracked.splitlines() if name.startswith(("hswq_core/", "farm/"))}
    assert {f"hswq_{name}" if name.startswith("farm/") else name for name in wanted} <= names
    assert "hswq_core/proof/page.html.j2" in names and not [name for name in names if "__pycache__" in name]


def test_the_command_and_what_is_added_to_it_are_entry_points(wheel: zipfile.ZipFile) -> None:
    (file,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    found = configparser.ConfigParser()
    found.read_string(wheel.read(file).decode("utf-8"))
    assert dict(found["console_scripts"]) == {"hswq": "hswq_core.cli:main"}
    assert dict(found["hswq.commands"]) == {"farm": "hswq_farm.hswq_commands:add_commands"}


def test_an_installed_command_finds_what_was_added(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """In a folder as pip leaves it: no checkout beside it, and no name ``farm``."""
    pytest.importorskip("pydantic", reason="what the farm needs is not installed")
    wheel.extractall(tmp_path)
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv.pop(1)); from hswq_core.cli import main"]
    command[-1] += "; sys.exit(main())"
    done = [
        subprocess.run([*command, tmp_path, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        for words in (["farm", "--help"], ["prove", "--help"])
    ]
    assert [each.returncode for each in done] == [0, 0], done
    assert "usage: hswq farm" in done[0].stdout and "usage: hswq prove" in done[1].stdout
