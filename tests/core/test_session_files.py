"""Sessions and their files: continued, shared, damaged, merged."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core.calibration import Statistics, load_statistics, save_statistics
from hswq_core.calibration.rows import tensor_of
from hswq_core.calibration.session import CalibrationSession
from hswq_core.calibration.statistics import merge
from hswq_core.calibration.summary import summarize
from hswq_core.errors import StatisticsError
from tests.core.small_nets import fingerprint, inputs, make_net, measure


def one_run(net: torch.nn.Module) -> Statistics:
    return Statistics(measure(net, inputs(1)).layers, 1, 1, 25, fingerprint(net))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fingerprint_knows_a_model_in_any_type_and_no_other(dtype: torch.dtype) -> None:
    net = make_net()
    assert fingerprint(net).matches(fingerprint(make_net().to(dtype)))
    assert not fingerprint(net).matches(fingerprint(make_net(seed=1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("changed", ["a merge of 1 %", "one layer"])
def test_fingerprint_tells_a_small_change(dtype: torch.dtype, changed: str) -> None:
    net, other = make_net().to(dtype), make_net().to(dtype)
    with torch.no_grad():
        for (name, weight), third in zip(other.named_parameters(), make_net(seed=1).parameters(), strict=True):
            if changed != "one layer":
                weight.copy_(weight.float().lerp(third, 0.01))
            elif name == "to_v.weight":
                weight.mul_(1.02)
    assert not fingerprint(net).matches(fingerprint(other))


def test_a_session_continues_from_its_file_and_refuses_another_model(tmp_path: Path) -> None:
    path = tmp_path / "session.safetensors"
    net, other = make_net(), make_net(seed=1)
    session = CalibrationSession.open(path, fingerprint(net))
    run = measure(net, inputs(2))
    for _ in range(2):
        session.add_run(Statistics(run.layers, 1, 4, 25, fingerprint(net)))
    reopened = CalibrationSession.open(path, fingerprint(net))
    assert (reopened.statistics.runs, reopened.statistics.samples, reopened.statistics.steps) == (2, 8, 50)
    assert reopened.statistics.digest() == session.statistics.digest()
    before = path.read_bytes()
    with pytest.raises(StatisticsError, match="another model"):
        CalibrationSession.open(path, fingerprint(other))
    assert path.read_bytes() == before
    assert not CalibrationSession.open(path, fingerprint(other), reset=True).statistics.layers


def test_a_session_opened_twice_loses_no_run(tmp_path: Path) -> None:
    path = tmp_path / "session.safetensors"
    net = make_net()
    run = Statistics(measure(net, inputs(1)).layers, 1, 1, 25, fingerprint(net))
    first = CalibrationSession.open(path, fingerprint(net))
    first.add_run(run)
    second = CalibrationSession.open(path, fingerprint(net))
    for session in (second, first, second):
        session.add_run(run)
    assert load_statistics(path).runs == 4
    path.unlink()  # what a user does who wants to begin anew
    assert CalibrationSession.open(path, fingerprint(net)).statistics.runs == 0


def test_a_failed_flush_does_not_end_the_sampling_and_is_said(tmp_path: Path) -> None:
    folder, net = tmp_path / "folder", make_net()
    session = CalibrationSession.open(folder / "session.safetensors", fingerprint(net))
    session.add_run(one_run(net))
    assert not session.unwritten
    shutil.rmtree(folder)
    folder.write_text("a file where the folder should be")
    session.add_run(one_run(net))
    assert str(session.path) in session.unwritten and "could not be locked" in session.unwritten
    folder.unlink()
    session.add_run(one_run(net))
    assert not session.unwritten and load_statistics(session.path).runs == 2  # the first went with the folder


def test_merging_different_models_is_refused() -> None:
    a = Statistics(measure(make_net(), inputs(1)).layers, 1, 1, 1, fingerprint(make_net()))
    b = Statistics(measure(make_net(1), inputs(1)).layers, 1, 1, 1, fingerprint(make_net(1)))
    with pytest.raises(StatisticsError, match="different models"):
        merge([a, b])


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "foreign", "flipped"])
def test_damaged_statistics_give_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.safetensors"
    save_statistics(Statistics(measure(make_net(), inputs(1)).layers, 1, 1, 1), path)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "text":
        path.write_text("no statistics at all")
    elif damage == "foreign":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(data[:20] + bytes([data[20] ^ 0xFF]) + data[21:])
    with pytest.raises(StatisticsError) as caught:
        load_statistics(path)
    assert str(path) in str(caught.value) and caught.value.remedy


def test_what_cannot_be_written_is_told_before_a_session_begins(tmp_path: Path) -> None:
    (tmp_path / "hswq").write_text("a file where the folder should be")
    with pytest.raises(StatisticsError, match="no session can be written here"):
        CalibrationSession.open(tmp_path / "hswq" / "session.safetensors", fingerprint(make_net()))


@pytest.mark.parametrize("open_it", [lambda p: CalibrationSession.open(p, fingerprint(make_net())), load_statistics])
def test_a_session_that_is_a_folder_or_may_not_be_read_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_it: Callable[[Path], object]
) -> None:
    path = tmp_path / "session.safetensors"
    path.mkdir()
    with pytest.raises(StatisticsError, match="this is a folder"):
        open_it(path)
    path.rmdir()
    save_statistics(one_run(make_net()), path)
    plain = Path.open

    def denied(self: Path, mode: str = "r", **more: Any) -> Any:
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(self, mode, **more)

    monkeypatch.setattr(Path, "open", denied)  # root may read whatever its permissions are
    with pytest.raises(StatisticsError, match=r"cannot be read \(Permission denied\)\. Check its permissions"):
        open_it(path)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_session_is_written_where_files_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows has no flock")

    def unsupported(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    session, net = CalibrationSession.open(tmp_path / "session.safetensors", fingerprint(make_net())), make_net()
    for _ in range(2):
        session.add_run(one_run(net))
    assert load_statistics(session.path).runs == 2
    assert caplog.text.count("cannot be locked") == 1


def test_sessions_that_hold_the_centres_of_patches_stay_readable(tmp_path: Path) -> None:
    """Earlier versions wrote ``rows`` of every convolution beside its ``patches``."""
    net, new, old = make_net(), tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    statistics = replace(measure(net, inputs(2), rows=16), runs=1, fingerprint=fingerprint(net))
    save_statistics(statistics, new)
    tensors = load_file(new)
    assert "conv.patches" in tensors and "conv.rows" not in tensors and "flat.rows" in tensors
    tensors["conv.rows"] = tensors["conv.patches"].unflatten(1, (4, 9))[:, :, 4].contiguous()
    with safe_open(new, "pt") as file:
        save_file(tensors, old, file.metadata())
    loaded = load_statistics(old)
    rows = loaded.layers["conv"].rows
    assert rows is not None and torch.equal(tensor_of(rows), tensors["conv.patches"])
    assert replace(summarize(old), file="", bytes=0) == replace(summarize(new), file="", bytes=0)
    save_statistics(loaded + load_statistics(new), old)
    assert "conv.rows" not in load_file(old) and summarize(old).rows == 16
