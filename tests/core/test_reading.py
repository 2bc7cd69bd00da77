"""How files are read: nothing stays mapped, what is copied is in memory once, and where mapping is safe."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hswq_core import convert, inspect, load_statistics, merge_statistics, quantize
from hswq_core.api import plan, size_curve
from hswq_core.calibration.session import CalibrationSession
from hswq_core.calibration.summary import is_statistics, summarize
from hswq_core.errors import CheckpointError, PlanError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.deferred import DeferredTensor, read_deferred
from hswq_core.files.reading import SPARE, choose_reading
from hswq_core.files.shared_folder import is_known_to_be_local
from hswq_core.options import QuantizeOptions
from hswq_core.publishing import publish
from tests.core.capabilities import needs_memory_counters
from tests.core.conftest import Example

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/nas rw - nfs4 server:/export rw,vers=4.2
31 22 0:41 / /mnt/win\040share rw - cifs //server/share rw
32 22 0:42 / /home/me/remote rw,nosuid - fuse.sshfs me@there:/ rw
33 22 8:1 / /mnt/ntfs rw - fuseblk /dev/sda1 rw
34 30 8:2 / /mnt/nas/local rw - xfs /dev/sdb1 rw
35 22 0:43 / /mnt/c rw - 9p drvfs rw
36 22 0:44 / /over rw - ext4 /dev/sdc rw
37 36 0:45 / /over rw - nfs server:/over rw
"""


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/models/a.safetensors", True),
        ("/mnt/nas/a.safetensors", False),
        ("/mnt/nasty/a.safetensors", True),
        ("/mnt/win share/a.safetensors", False),
        ("/home/me/remote/deep/a.safetensors", False),
        ("/mnt/ntfs/a.safetensors", True),
        ("/mnt/nas/local/a.safetensors", True),
        ("/mnt/c/a.safetensors", False),
        ("/over/a.safetensors", False),
    ],
)
def test_folders_that_other_machines_share(path: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.realpath", str)  # none of them is here
    assert is_known_to_be_local(Path(path), MOUNTS) is local


def test_where_no_table_tells_a_folder_is_not_known_to_be_local(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not is_known_to_be_local(tmp_path, "")
    monkeypatch.setattr("hswq_core.files.shared_folder._MOUNTS", tmp_path / "not here")
    assert not is_known_to_be_local(tmp_path)


def test_memory_is_taken_unless_it_is_short_and_the_disk_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.realpath", str)
    here, nas = Path("/models/a"), Path("/mnt/nas/a")

    def mapped(asked: str, path: Path, free: int, never: bool = False) -> bool:
        return choose_reading(asked, path, 1000, free, never_mapped=never, mounts=MOUNTS).mapped

    plenty, short = 1000 + SPARE, 999 + SPARE
    assert not mapped("auto", here, plenty) and not mapped("auto", nas, short) and not mapped("memory", here, 0)
    assert mapped("auto", here, short) and mapped("mapped", nas, plenty)
    assert not mapped("mapped", here, short, never=True) and not mapped("auto", here, short, never=True)
    with pytest.raises(PlanError, match="Choose one of auto, memory, mapped"):
        mapped("mmap", here, plenty)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.safetensors"
    save_file({"weight": torch.arange(24.0).view(6, 4), "bias": torch.arange(6.0)}, path)
    return path


def test_a_deferred_tensor_is_read_when_it_is_used_and_not_kept(file: Path) -> None:
    expected = torch.arange(24.0).view(6, 4)
    with CheckpointReader(file) as reader:
        weight = reader.deferred("weight")
        assert weight.shape == (6, 4) and weight.dtype == torch.float32 and weight.nelement() == 24
        assert torch.equal(weight.half(), expected.half()) and torch.equal(torch.cat([weight, weight])[6:], expected)
        third = weight[2:4]
        assert isinstance(third, DeferredTensor) and torch.equal(third, expected[2:4])
        assert torch.equal(weight.t(), expected.T)
        for part in (third.read(), weight.select(0, 1)):
            assert part.untyped_storage().nbytes() == part.nbytes
        copied = torch.nn.Linear(4, 6)
        copied.load_state_dict({"weight": weight, "bias": reader.deferred("bias")})
        taken_over = torch.nn.Linear(4, 6)
        taken_over.load_state_dict({"weight": weight, "bias": reader.deferred("bias")}, assign=True)
        assert isinstance(taken_over.weight, DeferredTensor)
        read_deferred([taken_over])
    assert not isinstance(copied.weight, DeferredTensor) and not isinstance(taken_over.weight, DeferredTensor)
    assert torch.equal(copied.weight, expected) and torch.equal(taken_over(torch.ones(4)), copied(torch.ones(4)))


def test_a_file_that_is_cut_short_while_tensors_are_deferred(file: Path) -> None:
    save_file({"weight": torch.zeros(1 << 20)}, file)
    with CheckpointReader(file) as reader:
        weight = reader.deferred("weight")
        os.truncate(file, 200)
        with pytest.raises(CheckpointError, match="ended while tensor weight was read"):
            weight.float().sum()
        with pytest.raises(CheckpointError, match="changed while it was read"):
            reader.check_unchanged()


def test_a_file_that_is_written_over_is_told_from_one_that_is_replaced(file: Path) -> None:
    with CheckpointReader(file) as reader:
        identity = reader.identity
    assert not identity.is_written_over()
    data = file.read_bytes()
    file.with_suffix(".new").write_bytes(data)
    os.replace(file.with_suffix(".new"), file)
    assert not identity.is_written_over()
    with CheckpointReader(file) as reader:
        identity = reader.identity
    with file.open("ab") as more:
        more.write(b"x")
    assert identity.is_written_over()
    file.unlink()
    assert not identity.is_written_over()


def mapped_in(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text("utf-8").splitlines() if str(folder) in line]


@needs_memory_counters
def test_the_test_of_mappings_sees_one(file: Path) -> None:
    with CheckpointReader(file) as reader:
        mapped = reader.mapped(["weight"])
    assert mapped_in(file.parent)
    del mapped
    assert not mapped_in(file.parent)


@needs_memory_counters
def test_nothing_that_is_public_holds_a_mapping(example: Example, tmp_path: Path) -> None:
    v2, options = tmp_path / "v2.safetensors", QuantizeOptions(mode="v2", keep_ratio=0.1)
    statistics = load_statistics(example.statistics_path)
    calls: dict[str, Callable[[], object]] = {
        "load_statistics": lambda: load_statistics(example.statistics_path),
        "rows": lambda: [layer.rows.tensor() for layer in statistics.layers.values() if hasattr(layer.rows, "tensor")],
        "merge": lambda: merge_statistics([example.statistics_path, example.statistics_path]),
        "plan": lambda: plan(example.path, statistics, options),
        "curve": lambda: size_curve(example.path, statistics, options),
        "quantize": lambda: quantize(example.path, v2, statistics, options),
        "inspect": lambda: inspect(v2),
        "convert": lambda: convert(v2, tmp_path / "fp16.safetensors", "fp16"),
        "summary": lambda: (is_statistics(example.statistics_path), summarize(example.statistics_path)),
        "session": lambda: CalibrationSession.load(example.statistics_path),
        "publish": lambda: publish(v2, tmp_path / "upload"),
    }
    for name, call in calls.items():
        kept = call()
        assert kept is not None and not mapped_in(tmp_path) and not mapped_in(example.path.parent), name
