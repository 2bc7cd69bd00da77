"""What a test needs of the machine, each with the reason that a skipped test gives; and a process to be killed."""

import importlib.metadata
import importlib.util
import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from packaging.version import Version


def _has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def _removes_open_files() -> bool:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "open"
        with path.open("wb"):
            try:
                path.unlink()
            except PermissionError:
                return False
    return True


def _interprets_kernels() -> bool:
    """Triton's interpreter before 3.5 warns at numbers that are masked out, and cannot take bits apart."""
    return _has("triton") and Version(importlib.metadata.version("triton")) >= Version("3.5")


def _multiplies_fp8() -> bool:
    one = torch.ones(1)
    codes = torch.ones(16, 16).to(torch.float8_e4m3fn)
    try:
        torch._scaled_mm(codes, codes.t(), one, one, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True


needs_removable_open_files = pytest.mark.skipif(not _removes_open_files(), reason="this system removes no open files")
needs_file_size_limit = pytest.mark.skipif(not _has("resource"), reason="this system limits no process's files")
needs_terminal = pytest.mark.skipif(not _has("pty", "termios", "fcntl"), reason="this system opens no pseudo-terminals")
needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
needs_triton = pytest.mark.skipif(
    not _interprets_kernels(), reason="Triton, which does not exist everywhere, is not installed, or older than 3.5"
)
needs_farm = pytest.mark.skipif(not _has("pydantic"), reason="what the farm needs is not installed")
needs_gguf = pytest.mark.skipif(not _has("gguf"), reason="the package that reads GGUF files is not installed")
needs_fp8_products = pytest.mark.skipif(not _multiplies_fp8(), reason="this torch multiplies no FP8 on a CPU")
needs_memory_counters = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="a process's memory is read from /proc, which is not here"
)


def process_of(module: str, target: Callable[..., object], *arguments: object) -> BaseProcess:
    """A process that is not started yet, forked from one that has imported the module already where that is possible.

    Starting Python with torch takes seconds.
    """
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(["hswq_core.__main__", module])
    return context.Process(target=target, args=arguments)
