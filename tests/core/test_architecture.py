"""The order of the layers: whoever reads the folders from the first to the last never meets a name before its home."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hswq_core", "farm", "loader", "nodes")
# A folder or file of the core imports only from those before it.
ORDER = (
    "version", "words", "errors", "log", "sizes", "progress", "heap", "parallel", "devices", "sums", "grids",
    "formats", "options", "recipes", "fingerprint", "prompts", "kernels", "backend", "rounding", "inference", "metrics",
    "files", "calibration", "quantize_layer", "sensitivity", "planning", "proof",
    "estimate", "report", "quantize_file", "convert_file", "doctor", "api", "publishing",
    "cli_options", "added_commands", "cli", "__main__", "__init__",
)  # fmt: skip
LINES = 260


def modules(package: str) -> dict[str, Path]:
    """Module names of a package, dotted, with their files."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imported(name: str, path: Path) -> Iterator[str]:
    """Every module that a file imports from this pack, wherever in the file it does."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            # "from ..hswq_core import x" in loader/ leaves the package: the pack's own root.
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)
            yield module


def graph(package: str) -> dict[str, set[str]]:
    known = modules(package)
    return {name: {m for m in imported(name, path) if m in known and m != name} for name, path in known.items()}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_itself_by_a_detour(package: str) -> None:
    found = graph(package)
    # A package's own __init__ collects names from its files, which never import it back but for those names.
    TopologicalSorter({name: found[name] for name in found}).prepare()


def test_the_core_is_a_stack_of_layers() -> None:
    def unit(name: str) -> str:
        parts = name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"

    for name, targets in graph("hswq_core").items():
        for target in targets - {"hswq_core"}:
            assert ORDER.index(unit(target)) <= ORDER.index(unit(name)), f"{name} imports {target}"
    assert {unit(name) for name in modules("hswq_core")} == set(ORDER)


def test_the_core_imports_nothing_that_stands_beside_it() -> None:
    """Neither at the top of a file nor inside a function: what adds to it is found by ``added_commands``."""
    beside = {path.name for path in ROOT.iterdir() if path.is_dir()} | {"hswq_farm"}
    for name, path in modules("hswq_core").items():
        depth = name.count(".") + (path.name == "__init__.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not beside & {alias.name.partition(".")[0] for alias in node.names}, name
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= depth and (node.level or (node.module or "").partition(".")[0] not in beside), name


def test_the_functions_of_the_farm_have_few_branches() -> None:
    command = ["check", "--isolated", "--select", "C901", "--config", "lint.mccabe.max-complexity=10", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "ruff", *command, ROOT / "farm"], capture_output=True, text=True)
    if "No module named ruff" in done.stderr:
        pytest.skip("ruff is not installed")
    assert done.returncode == 0, done.stdout


def test_only_the_loader_and_the_nodes_know_comfyui() -> None:
    for name, path in {**modules("hswq_core"), **modules("farm")}.items():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not any(n.split(".")[0] in ("comfy", "folder_paths", "server", "nodes") for n in names), name


def test_files_stay_short() -> None:
    folders = (*PACKAGES, "benchmarks", "showcase", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    long = {str(path.relative_to(ROOT)): n for path in files if (n := path.read_bytes().count(b"\n")) > LINES}
    assert not long
