"""The page's modules under Node.js, which comes from PyPI with the tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def node() -> str:
    installed = shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")
    if installed is None:
        pytest.fail("there is no Node.js; 'nox -s tests' installs one")
    return installed


def test_modules() -> None:
    folder = Path(__file__).parent
    tests = [str(path) for path in sorted(folder.glob("*.test.mjs"))]
    done = subprocess.run([node(), "--test", *tests], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout or "fail 0" in done.stdout
