"""The reader refuses what is damaged, the writer writes what the official library reads."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core import inspect, quantize
from hswq_core.errors import CheckpointError, HSWQError, TargetError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.dtypes import tensor_bytes
from hswq_core.files.folders import writable_folder
from hswq_core.files.inspection import mode_of
from hswq_core.files.unfinished import temporary_beside
from hswq_core.files.writer import CheckpointWriter, FileLayout
from tests.core.conftest import Example


def with_header(path: Path, header: object, data: bytes = b"") -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def entry(dtype: object = "F32", shape: object = (1,), span: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


DAMAGED = {
    "empty": b"",
    "text": b"This is not a checkpoint, it is a sentence.",
    "header-longer-than-file": (1000).to_bytes(8, "little") + b"{}",
    "absurd-length": b"\xff" * 8,
    "no-json": (4).to_bytes(8, "little") + b"abcd",
    "array": (2).to_bytes(8, "little") + b"[]",
    "nested": (100_000).to_bytes(8, "little") + b"[" * 100_000,
}
HEADERS = {
    "unknown-dtype": {"a": entry(dtype="F12")},
    "negative-shape": {"a": entry(shape=(-1,))},
    "float-shape": {"a": entry(shape=(1.0,))},
    "wrong-size": {"a": entry(shape=(2,))},
    "backwards": {"a": entry(span=(4, 0))},
    "gap": {"a": entry(span=(4, 8), shape=(1,))},
    "overlap": {"a": entry(), "b": entry(span=(2, 6))},
    "beyond-the-end": {"a": entry(shape=(100,), span=(0, 400))},
    "no-object": {"a": 1},
    "metadata-no-text": {"__metadata__": {"a": 1}},
    "bytes-left-over": {},
}


@pytest.mark.parametrize("name", [*DAMAGED, *HEADERS])
def test_damaged_files_give_one_clear_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    if name in DAMAGED:
        path.write_bytes(DAMAGED[name])
    else:
        with_header(path, HEADERS[name], b"\0" * 4)
    with pytest.raises(CheckpointError) as caught:
        CheckpointReader(path)
    assert str(path) in str(caught.value) and caught.value.remedy


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        CheckpointReader(path)
    with pytest.raises(CheckpointError, match="no such file"):
        CheckpointReader(tmp_path / "nothing.safetensors")


def test_written_files_are_read_by_the_official_library(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "half": torch.randn(3, 5).half(),
        "codes": torch.randn(7).to(torch.float8_e4m3fn),
        "double": torch.randn(2, dtype=torch.float64),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 4),
        "bits": torch.tensor([True, False]),
    }
    names = {
        torch.float16: "F16",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float64: "F64",
        torch.float32: "F32",
        torch.bool: "BOOL",
    }
    layout = {k: (names[t.dtype], tuple(t.shape)) for k, t in tensors.items()}
    planned = FileLayout(layout, {"key": "wert, 値"})
    with CheckpointWriter(path, planned) as writer:
        for name in reversed(list(tensors)):
            writer.write(name, [tensor_bytes(tensors[name])])
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    with CheckpointReader(path) as reader:
        assert reader.metadata == {"key": "wert, 値"}
        for name, tensor in tensors.items():
            for other in (loaded[name], reader.tensor(name)):
                assert other.dtype == tensor.dtype and other.shape == tensor.shape
                assert tensor_bytes(other) == tensor_bytes(tensor)
            assert b"".join(reader.chunks(name)) == tensor_bytes(tensor)
    assert planned.nbytes == path.stat().st_size


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(TargetError, match="folder does not exist"),
        CheckpointWriter(tmp_path / "no/x.safetensors", FileLayout({}, {})),
    ):
        pass


def test_a_source_that_shrinks_while_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1 << 20)}, path)
    with CheckpointReader(path) as reader:
        with path.open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(CheckpointError, match="ended while"):
            reader.tensor("a")
        with pytest.raises(CheckpointError, match="ended while"):
            list(reader.chunks("a"))


def test_a_folder_that_cannot_be_written_is_told_beforehand(tmp_path: Path) -> None:
    assert writable_folder(tmp_path / "a" / "b").is_dir() and not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="there is a file where this folder is to be"):
        writable_folder(tmp_path / "file")
    with pytest.raises(TargetError, match=r"nothing can be written in this folder \(Not a directory\)"):
        writable_folder(tmp_path / "file" / "checkpoints")


def test_a_pickled_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(HSWQError, match="connect the MODEL to HSWQ Quantize"):
        CheckpointReader(path)


def test_a_target_that_is_held_open_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a file that a loaded model maps cannot be replaced; what the user had stays."""
    target = tmp_path / "held.safetensors"
    target.write_bytes(b"what the user had")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "The process cannot access the file")

    monkeypatch.setattr("os.replace", refuse)
    layout = FileLayout({"a": ("U8", (2,))}, {})
    with pytest.raises(TargetError, match="unload the models"), CheckpointWriter(target, layout, overwrite=True) as out:
        out.write("a", [b"ab"])
    assert target.read_bytes() == b"what the user had" and list(tmp_path.iterdir()) == [target]


def test_a_header_with_megabytes_of_text_is_opened_as_the_library_opens_it(example: Example, tmp_path: Path) -> None:
    """Trainers keep a record of the training there, workflows among it."""
    text = {"train": "y" * 30_000_000, "workflow": json.dumps({"nodes": [{"a\\": [1]}] * 300_000})}
    path, target = tmp_path / "told.safetensors", tmp_path / "out.safetensors"
    save_file(example.tensors, path, metadata=text)
    with CheckpointReader(path) as reader:
        assert reader.metadata == text and reader.tensors.keys() == example.tensors.keys()
    quantize(path, target, mode="v2", keep_ratio=0)
    assert mode_of(target) == "v2" and inspect(target).metadata["train"] == text["train"]


def test_a_header_of_many_small_things_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hswq_core.files.header._MAX_STRUCTURE", 25_000)
    path = with_header(tmp_path / "many.safetensors", {"__metadata__": {str(n): "" for n in range(2_500)}})
    with pytest.raises(CheckpointError, match="longer than any model"):
        CheckpointReader(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".PT", ".pth", ".bin"])
def test_no_safetensors_are_written_under_a_name_of_another_format(
    example: Example, tmp_path: Path, suffix: str
) -> None:
    target = tmp_path / f"out{suffix}"
    with pytest.raises(TargetError, match=r"Name it \.safetensors"):
        quantize(example.path, target, mode="v2", keep_ratio=0)
    assert not target.exists()


def test_a_file_where_the_folder_should_be_is_told_as_such(example: Example, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(TargetError, match="checkpoints: this is a file, not a folder"):
        quantize(example.path, tmp_path / "checkpoints" / "out.safetensors", mode="v2", keep_ratio=0)


def test_what_another_machine_writes_into_a_shared_folder_is_not_removed(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.safetensors"

    def unfinished(machine: str) -> Path:
        monkeypatch.setattr("socket.gethostname", lambda: machine)
        mine = temporary_beside(target)
        dead = mine.with_name(mine.name.replace(str(os.getpid()), "4194304"))  # beyond any process
        dead.touch()
        return dead

    other, own = unfinished("one"), unfinished("two.local")
    assert other != own
    quantize(example.path, target, mode="v2", keep_ratio=0)
    assert other.exists() and not own.exists() and target.exists()
