"""The command line: what it does, its exit code, its one line of error; in this process, and as a user runs it."""

import contextlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hswq_core.calibration import load_statistics
from hswq_core.cli import main
from tests.core.capabilities import needs_full_device, needs_terminal
from tests.core.conftest import Example, make_example

ROOT = Path(__file__).resolve().parents[2]


def hswq(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In this process: another Python with torch takes seconds to start."""
    command, output, errors = list(map(str, arguments)), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(command)
        except SystemExit as ended:  # argparse
            code = ended.code
    return subprocess.CompletedProcess(command, int(code or 0), output.getvalue(), errors.getvalue())


def hswq_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hswq_core", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_every_command_as_a_process(example: Example, tmp_path: Path) -> None:
    """Of ``card``, ``prove`` and ``farm`` there are tests beside theirs."""
    v2, fp16, total = (tmp_path / f"{name}.safetensors" for name in ("v2", "fp16", "total"))
    again = shutil.copy(example.statistics_path, tmp_path / "tuesday.safetensors")
    done = [
        hswq_process("quantize", example.path, v2, "--mode", "v2", "--keep-ratio", 0),
        hswq_process("inspect", v2, "--json"),
        hswq_process("convert", v2, fp16, "--to", "fp16"),
        hswq_process("merge-stats", total, example.statistics_path, again),
    ]
    assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 4
    assert json.loads(done[1].stdout)["format"] == "v2" and fp16.is_file() and load_statistics(total).samples == 24
    refused = hswq_process("inspect", "nothing.safetensors")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and not refused.stdout


def test_quantize_and_inspect(example: Example, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    done = hswq(
        "quantize", example.path, target, "--mode", "v2", "--stats", example.statistics_path, "--keep-ratio", 0.1
    )
    assert done.returncode == 0, done.stderr
    assert "9 in FP8, 2 kept" in done.stdout
    found = json.loads(hswq("inspect", target, "--json").stdout)
    assert found["format"] == "v2" and found["bytes"] == target.stat().st_size
    assert len(found["quantized"]) == 9 and len(found["unquantized"]) == 2
    assert "v2" in hswq("inspect", target).stdout
    summary = json.loads(hswq("inspect", example.statistics_path, "--json").stdout)
    assert (summary["runs"], summary["samples"], summary["layers"]) == (3, 12, 11) and summary["rows"] > 0
    assert "12 images in 3 runs" in hswq("inspect", example.statistics_path).stdout
    assert json.loads(hswq("inspect", example.path, "--json").stdout)["format"] == "not quantized"


def test_without_statistics_everything_is_quantized_evenly(example: Example, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    refused = hswq("quantize", example.path, target, "--mode", "v1")
    assert refused.returncode == 2 and "needs statistics" in refused.stderr
    assert hswq("quantize", example.path, target, "--mode", "v1", "--keep-ratio", 0).returncode == 0
    assert json.loads(hswq("inspect", target, "--json").stdout)["format"] == "v1"


def test_merge_stats(example: Example, tmp_path: Path) -> None:
    total = tmp_path / "total.safetensors"
    again = shutil.copy(example.statistics_path, tmp_path / "tuesday.safetensors")
    done = hswq("merge-stats", total, example.statistics_path, again)
    assert done.returncode == 0, done.stderr
    assert load_statistics(total).samples == 24
    twice = hswq("merge-stats", tmp_path / "x.safetensors", again, again)
    assert twice.returncode == 2 and "named twice" in twice.stderr and not (tmp_path / "x.safetensors").exists()
    kept = example.path.read_bytes()
    over = hswq("merge-stats", example.path, example.statistics_path, again, "--overwrite")
    assert over.returncode == 2 and "not an HSWQ statistics file" in over.stderr and example.path.read_bytes() == kept
    other = make_example(tmp_path, seed=1)
    refused = hswq("merge-stats", tmp_path / "x.safetensors", example.statistics_path, other.statistics_path)
    assert (
        refused.returncode == 2 and "different models" in refused.stderr and not (tmp_path / "x.safetensors").exists()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--keep-ratio": "1.5"}, "keep ratio"),
        ({"source": "nothing.safetensors"}, "no such file"),
        ({"--stats": "nothing.safetensors"}, "no such statistics"),
        ({"target": "no/folder/out.safetensors"}, "folder does not exist"),
    ],
    ids=["ratio", "source", "statistics", "folder"],
)
def test_bad_input_is_one_line_and_exit_code_2(
    example: Example, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    source = change.get("source", str(example.path))
    target = tmp_path / change.get("target", "out.safetensors")
    options = {"--mode": "v1", "--stats": str(example.statistics_path), "--keep-ratio": "0.1"}
    options |= {k: v for k, v in change.items() if k.startswith("--")}
    done = hswq("quantize", source, target, *(part for pair in options.items() for part in pair))
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not target.exists()


def test_the_source_is_never_the_target(example: Example) -> None:
    before = example.path.read_bytes()
    done = hswq("quantize", example.path, example.path, "--mode", "v1", "--keep-ratio", 0, "--overwrite")
    assert done.returncode == 2 and example.path.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        (["quantise", "a", "b"], "quantize"),
        (["quantize", "a", "b", "--mode", "V2"], "v2"),
        (["quantize", "a", "b", "--mode", "v1", "--selection", "mesured"], "measured"),
        (["convert", "a", "b", "--to", "confy"], "comfy"),
    ],
    ids=["command", "mode", "selection", "format"],
)
def test_a_mistyped_name_gets_a_suggestion(words: list[str], guess: str) -> None:
    done = hswq(*words)
    assert done.returncode == 2 and f"Did you mean '{guess}'?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["inspect", "quantize", "convert", "merge-stats"])
def test_every_command_has_an_example(command: str) -> None:
    assert f"example: hswq {command} " in " ".join(hswq(command, "--help").stdout.split())


@needs_full_device
def test_a_console_that_is_closed_or_has_few_characters(example: Example, tmp_path: Path) -> None:
    """What was written was written: the exit code is that of the job."""
    source = example.path.rename(tmp_path / "\u6a21\u578b.safetensors")
    for number, redirect in enumerate((">/dev/full", ">&-", "| true")):
        target = tmp_path / f"{number}.safetensors"
        command = f"{sys.executable} -m hswq_core quantize {source} {target} --mode v1 --keep-ratio 0 {redirect}"
        shell = ["bash", "-o", "pipefail", "-c", command]
        done = subprocess.run(shell, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == 0 and not done.stderr, redirect
        assert target.is_file()
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "hswq_core", "inspect", source], cwd=ROOT, env=environment, capture_output=True
    )
    assert done.returncode == 0 and b"not quantized" in done.stdout


@needs_terminal
def test_progress_is_shown_on_a_terminal_alone(example: Example, tmp_path: Path) -> None:
    """On a terminal of its own, with and without --quiet."""
    import fcntl
    import pty
    import termios

    shown = []
    for quiet in ([], ["--quiet"]):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        target = tmp_path / f"{len(shown)}.safetensors"
        command = [sys.executable, "-m", "hswq_core", "quantize", example.path, target, "--mode", "v1"]
        command += ["--keep-ratio", "0", *quiet]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, timeout=120)
        os.close(theirs)
        assert done.returncode == 0
        try:
            shown.append(os.read(ours, 10_000))
        except OSError:  # nothing was written
            shown.append(b"")
        os.close(ours)
    assert b"%|" in shown[0] and not shown[1]
