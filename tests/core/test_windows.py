"""What Windows does otherwise, emulated as far as it can be: names, long paths, held files, consoles."""

import io
import json
import os
import pathlib
import sys
from pathlib import Path

import pytest

from hswq_core import quantize
from hswq_core.calibration.session import CalibrationSession
from hswq_core.cli import main
from hswq_core.errors import HSWQError, TargetError
from hswq_core.files.long_path import extended_path, long_path
from hswq_core.files.names import next_free, safe_file_name, usable_name
from hswq_core.files.unfinished import is_running, remove_leftovers, temporary_beside
from hswq_core.files.writer import check_not_source
from tests.core.capabilities import needs_farm
from tests.core.conftest import Example

SCRIPT = "\u6a21\u578b"
HELD = PermissionError(13, "The process cannot access the file because it is being used by another process")


@pytest.mark.parametrize(
    "name",
    [
        "con",
        "NUL.safetensors",
        "com1.x",
        "Com\xb9",
        "lpt9",
        "aux .v2",
        "CONOUT$",
        "x.",
        "x ",
        "a<b",
        "a|b",
        'a"b',
        "a*",
    ],
)
def test_names_that_windows_refuses_are_refused_everywhere(example: Example, tmp_path: Path, name: str) -> None:
    with pytest.raises(TargetError, match="cannot be used as a file name"):
        safe_file_name(name)
    stem = name.removesuffix(".safetensors")
    with pytest.raises(TargetError, match="cannot be used as a file name"):
        quantize(example.path, tmp_path / f"{stem}.safetensors", mode="v2", keep_ratio=0)
    assert not list(tmp_path.glob("*.tmp")) and safe_file_name(usable_name(name))


def test_a_name_that_is_too_long_is_one_clear_error(example: Example, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="too long as a file name"):
        quantize(example.path, tmp_path / ("x" * 230 + ".safetensors"), mode="v2", keep_ratio=0)
    deep = Path(tmp_path, *["y" * 200] * 25, "out.safetensors")  # longer than Linux takes
    with pytest.raises(HSWQError, match="folder does not exist"):
        quantize(example.path, deep, mode="v2", keep_ratio=0)
    with pytest.raises(HSWQError, match="no such file"):
        quantize(deep, tmp_path / "out.safetensors", mode="v2", keep_ratio=0)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("C:\\models\\a.safetensors", "C:\\models\\a.safetensors"),
        ("C:/models/../models/a.safetensors", "C:\\models\\a.safetensors"),
        (f"C:\\{'d' * 250}\\a", f"\\\\?\\C:\\{'d' * 250}\\a"),
        (f"C:/{'d' * 250}/./a", f"\\\\?\\C:\\{'d' * 250}\\a"),
        (f"\\\\server\\share\\{'d' * 250}\\a", f"\\\\?\\UNC\\server\\share\\{'d' * 250}\\a"),
        (f"\\\\?\\C:\\{'d' * 250}\\a", f"\\\\?\\C:\\{'d' * 250}\\a"),
        (f"\\\\.\\pipe\\{'d' * 250}", f"\\\\.\\pipe\\{'d' * 250}"),
    ],
)
def test_long_paths_of_windows_get_the_form_that_has_no_limit(path: str, expected: str) -> None:
    assert extended_path(path) == expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has another form for long paths")
def test_elsewhere_paths_stay_as_they_are() -> None:
    assert long_path(Path("x" * 300)) == Path("x" * 300)


def test_files_are_written_and_read_at_long_paths(example: Example, tmp_path: Path) -> None:
    folder = Path(tmp_path, *["d" * 60] * 5)
    os.makedirs(long_path(folder))
    report = quantize(example.path, folder / "out.safetensors", mode="v2", keep_ratio=0)
    assert len(str(folder)) > 260 and json.dumps(report.as_dict())
    with pytest.raises(TargetError, match="exists already"):
        quantize(example.path, folder / "out.safetensors", mode="v2", keep_ratio=0)


class Holder:
    """Holds every target for a number of attempts to replace it, as a scanner or a program that has it open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, attempts: int) -> None:
        self.left, self._replace = attempts, os.replace
        monkeypatch.setattr(os, "replace", self)
        monkeypatch.setattr("time.sleep", lambda _seconds: None)

    def __call__(self, source: Path, target: Path) -> None:
        self.left -= 1
        if self.left >= 0:
            raise HELD
        self._replace(source, target)


def test_a_file_that_is_held_for_a_moment_is_replaced(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"what the user had")
    Holder(monkeypatch, 3)
    quantize(example.path, target, mode="v2", keep_ratio=0, overwrite=True)
    assert target.stat().st_size > 1000 and not list(tmp_path.glob(".*.tmp"))


def test_a_file_that_stays_held_is_left_as_it_is(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, before = tmp_path / "out.safetensors", example.statistics_path.read_bytes()
    target.write_bytes(b"what the user had")
    session = CalibrationSession.load(example.statistics_path)
    Holder(monkeypatch, 1000)
    with pytest.raises(TargetError, match=r"used by another process.*unload the models, or choose another name"):
        quantize(example.path, target, mode="v2", keep_ratio=0, overwrite=True)
    assert target.read_bytes() == b"what the user had" and not list(tmp_path.glob(".*.tmp"))
    session.add_impacts({next(iter(session.statistics.layers)): 1.0}, "v2 nearest")
    assert "used by another process" in session.unwritten and example.statistics_path.read_bytes() == before
    monkeypatch.undo()
    session.add_impacts({next(iter(session.statistics.layers)): 1.0}, "v1 nearest")
    assert not session.unwritten and set(session.statistics.purposes) == {"v1 nearest", "v2 nearest"}


def test_a_folder_that_does_not_tell_capitals_from_small_letters(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "model.safetensors"
    there.write_bytes(example.path.read_bytes())
    stat = os.stat

    def folded(path: object, **more: object) -> os.stat_result:
        if isinstance(path, (str, os.PathLike)) and os.path.basename(path).lower() == there.name:
            path = there
        return stat(path, **more)  # type: ignore[arg-type]

    before = there.read_bytes()
    monkeypatch.setattr(os, "stat", folded)
    if accessor := getattr(pathlib, "_NormalAccessor", None):  # Python 3.10 has a copy of it
        monkeypatch.setattr(accessor, "stat", staticmethod(folded))
    other = tmp_path / "Model.safetensors"
    with pytest.raises(TargetError, match="exists already"):
        quantize(example.path, other, mode="v2", keep_ratio=0)
    with pytest.raises(TargetError, match="the target is the source"):
        check_not_source(other, there)
    with pytest.raises(TargetError, match="the target is the source"):
        quantize(there, other, mode="v2", keep_ratio=0, overwrite=True)
    assert there.read_bytes() == before and next_free(other).name == "Model_2.safetensors"


def test_no_process_is_ended_by_asking_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows os.kill with any number ends the process."""

    def ends(*_: object) -> None:
        raise AssertionError("a process was ended")

    with monkeypatch.context() as windows:
        windows.setattr(os, "kill", ends)
        windows.setattr(os, "name", "nt")
        assert is_running(os.getpid()) and not is_running(os.getppid())


def test_no_two_processes_of_any_machines_share_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.safetensors"
    names = {temporary_beside(target).name}
    names.add(temporary_beside(target).name)  # a thread of this one
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    names.add(temporary_beside(target).name)
    monkeypatch.setattr("hswq_core.files.unfinished._told_by_system", lambda: "another container of one name")
    names.add(temporary_beside(target).name)
    assert len({name.split(".")[-2].split("-")[0] for name in names}) == 3 and len(names) == 4


def test_unfinished_files_are_removed_if_they_are_ours_and_told_if_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "out.safetensors"
    ours = temporary_beside(target)
    dead = ours.with_name(ours.name.replace(f"-{os.getpid()}-", "-4194304-"))
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    theirs, old = temporary_beside(target), temporary_beside(target)
    monkeypatch.undo()
    unlike = tmp_path / ".out.safetensors.notes.tmp"
    for path in (ours, dead, theirs, old, unlike):
        path.touch()
    os.utime(old, (1, 1))
    remove_leftovers(target)
    assert not dead.exists() and all(path.exists() for path in (ours, theirs, old, unlike))
    assert [old.name in message for message in caplog.messages] == [True]


def few_characters(monkeypatch: pytest.MonkeyPatch) -> tuple[io.BytesIO, io.BytesIO]:
    """What standard output and error get from now on, as an old console, or a pipe, of Windows has them."""
    written = io.BytesIO(), io.BytesIO()
    for name, stream in zip(("stdout", "stderr"), written, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, "cp1252", "strict", write_through=True))
    return written


def test_every_command_prints_names_in_another_script(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, said = few_characters(monkeypatch)
    source = str(example.path.rename(tmp_path / f"{SCRIPT}.safetensors"))
    v2, fp16, total = (str(tmp_path / f"{SCRIPT}_{name}.safetensors") for name in ("v2", "fp16", "total"))
    session = str(example.statistics_path)
    again = str(tmp_path / f"{SCRIPT}_again.safetensors")
    Path(again).write_bytes(example.statistics_path.read_bytes())
    done = [
        ["quantize", source, v2, "--mode", "v2", "--stats", session, "--keep-ratio", "0.1"],
        ["inspect", v2],
        ["convert", v2, fp16, "--to", "fp16"],
        ["merge-stats", total, session, again],
        ["inspect", total],
        ["card", v2],
    ]
    for command in done:
        assert main(command) == 0, said.getvalue()
    assert rb"\u6a21\u578b_v2.safetensors" in printed.getvalue() and not said.getvalue()
    gone = str(tmp_path / f"{SCRIPT}_gone")
    failing = [[*command[:1], gone, *command[2:]] for command in done if command[0] != "merge-stats"]
    failing.append(["merge-stats", f"{gone}.safetensors", session, gone])
    for command in failing:
        before = len(said.getvalue())
        assert main(command) == 2
        line = said.getvalue()[before:]
        assert line.count(b"\n") == 1 and rb"\u6a21\u578b_gone" in line, command


@needs_farm
def test_the_farm_prints_names_in_another_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = few_characters(monkeypatch)
    assert main(["farm", str(tmp_path / f"{SCRIPT}_gone")]) == 2
    assert said.getvalue().count(b"\n") == 1 and rb"\u6a21\u578b_gone" in said.getvalue()


@pytest.mark.parametrize(
    "command",
    ["quantize", "inspect", "convert", "merge-stats", "card", "prove", "", pytest.param("farm", marks=needs_farm)],
)
def test_every_help_is_printed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, _ = few_characters(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main([*filter(None, [command]), "--help"])
    assert not ended.value.code and b"usage: hswq" in printed.getvalue()
