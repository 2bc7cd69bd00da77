"""Headers and descriptions that no tool writes: a finding, a layer with a reason, or one error, and nothing else."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hswq_core import diagnose
from hswq_core.errors import CheckpointError
from tests.core import doctor_files as files
from tests.core import doctor_peers as peers
from tests.core.capabilities import needs_gguf
from tests.core.test_doctor_gguf import written

PATH = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
LAYER = f"{files.UNET}{PATH}"
DEEP = "[" * 100_000


def names_of(path: Path) -> list[str]:
    found = diagnose(path)
    json.dumps(found.as_dict(), allow_nan=False)
    return [finding.name for finding in found.findings]


@pytest.mark.parametrize("said", ['[["a"]]', "[{}]", "[1, 2]", "[null]", DEEP, "[" * 900 + "]" * 900, "["])
@pytest.mark.parametrize("key", ["hswq.kept_layers", "hswq.layers_by_form"])
def test_a_header_of_ours_that_cannot_be(key: str, said: str, tmp_path: Path) -> None:
    path = files.save(tmp_path, files.each(files.plain), {key: said})
    assert names_of(path) == ["metadata"]


@pytest.mark.parametrize("said", [DEEP, '{"layers": ' + DEEP, '{"layers": [1]}', "[]", "7"])
@pytest.mark.parametrize("key", ["_quantization_metadata", f"{LAYER}.weight"])
def test_a_header_of_others_that_cannot_be(key: str, said: str, tmp_path: Path) -> None:
    path = files.save(tmp_path, files.each(peers.torchao), {key: said})
    assert names_of(path) == [] and diagnose(path).groups[0].group.kind.name == "torchao_float8"


def test_layers_that_are_not_there_are_in_the_headers_order(tmp_path: Path) -> None:
    named = [f"block.{number}" for number in (5, 1, 9, 3, 5, 7)]
    path = files.save(tmp_path, files.each(files.plain), {"hswq.kept_layers": json.dumps(named)})
    (finding,) = diagnose(path).findings
    assert finding.name == "layer-missing" and finding.layers == tuple(dict.fromkeys(named))


ROTATIONS = {
    "F32 NaN": torch.tensor([math.nan]),
    "F32 infinity": torch.tensor([math.inf]),
    "F32 4.5": torch.tensor([4.5]),
    "U64": torch.tensor([2**63 + 5], dtype=torch.uint64),
    "C64": torch.tensor([1 + 2j]),
    "F8": torch.tensor([5.0]).to(files.FP8),
    "negative": torch.tensor([-4]),
    "two": torch.tensor([64, 64]),
    "none": torch.zeros(0, dtype=torch.int32),
}


@pytest.mark.parametrize("what", ROTATIONS)
def test_a_rotation_that_is_no_number(what: str, tmp_path: Path) -> None:
    tensors = files.each(files.integers(None)) | {f"{LAYER}.weight_rotation": ROTATIONS[what]}
    (finding,) = diagnose(files.save(tmp_path, tensors)).errors
    assert finding.layers == (LAYER,) and "cannot be" in finding.what


def nested(name: str, weight: torch.Tensor) -> files.Tensors:
    """NF4 with double quantization: scales of 1, as codes of a table."""
    found = peers.bnb_nf4(name, weight)
    blocks = len(found[f"{name}.weight.absmax"])
    return found | {
        f"{name}.weight.absmax": torch.full((blocks,), 255, dtype=torch.uint8),
        f"{name}.weight.nested_quant_map": torch.linspace(0, 1, 256),
        f"{name}.weight.nested_absmax": torch.ones(-(-blocks // 256)),
    }


STATES: dict[str, dict[str, Any]] = {
    "a size beyond all": {"shape": [1, 10**400]},
    "a size beyond memory": {"shape": [2**40, 2**40]},
    "more than the codes": {"shape": [64, 257]},
    "less than the codes": {"shape": [64, 64]},
    "no shape": {"shape": None},
    "large blocks": {"blocksize": 10**14},
    "large blocks of blocks": {"nested_blocksize": 10**12, "blocksize": 64},
    "small blocks of blocks": {"nested_blocksize": 1},
    "small blocks": {"blocksize": 1},
}


@pytest.mark.parametrize("what", STATES)
def test_sizes_that_do_not_fit_are_not_taken_for_sizes(what: str, tmp_path: Path) -> None:
    key = f"{LAYER}.weight.quant_state.bitsandbytes__nf4"
    said = {"quant_type": "nf4", "blocksize": 64, "shape": [64, 256], "nested_blocksize": 256} | STATES[what]
    path = files.save(tmp_path, files.each(nested) | {key: files.bytes_of(**said)})
    found = diagnose(path, original=files.save(tmp_path, files.original(), name="original"))
    json.dumps(found.as_dict(), allow_nan=False)
    assert found.comparison is not None
    if what == "large blocks of blocks":  # all are in the first
        assert not found.errors and PATH not in found.comparison.undecoded
    else:
        assert [finding.layers for finding in found.errors] == [(LAYER,)] and list(found.comparison.undecoded) == [PATH]
    assert sum(each.group.weights for each in found.groups) == 6 * 64 * 256 + 64 * 128


@pytest.mark.parametrize("shape", [[1, 10**400], [2**40, 2**40], [64, 300], [64]])
def test_a_shape_of_packed_codes_that_does_not_fit(shape: list[int], tmp_path: Path) -> None:
    said = files.bytes_of(format="hswq_int4", group_size=64, shape=shape)
    path = files.save(tmp_path, files.each(files.hswq_int4) | {f"{LAYER}.comfy_quant": said})
    assert names_of(path) == ["scale-shape"]
    assert sum(each.group.weights for each in diagnose(path).groups) < 1e6


@pytest.mark.parametrize("kind", ["bitsandbytes", "comfy"])
def test_a_description_that_is_too_deep(kind: str, tmp_path: Path) -> None:
    deep = torch.tensor(list(b"[" * 60_000), dtype=torch.uint8)
    key = f"{LAYER}.weight.quant_state.bitsandbytes__nf4" if kind == "bitsandbytes" else f"{LAYER}.comfy_quant"
    change = peers.bnb_nf4 if kind == "bitsandbytes" else files.comfy_fp8
    assert len(names_of(files.save(tmp_path, files.each(change) | {key: deep}))) == 1


@needs_gguf
@pytest.mark.parametrize("sizes", [(64, 64, 3, 4), (64, 64, -3, -3), (2**31 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1)])
def test_a_shape_in_gguf_that_does_not_fit(sizes: tuple[int, ...], tmp_path: Path) -> None:
    path = written(tmp_path, "Q8_0")
    here = b"".join(size.to_bytes(4, "little") for size in (64, 64, 3, 3))
    data = path.read_bytes()
    assert data.count(here) == 1
    path.write_bytes(data.replace(here, b"".join(size.to_bytes(4, "little", signed=True) for size in sizes)))
    with pytest.raises(CheckpointError, match="do not fit its shape"):
        diagnose(path)


def no_file(folder: Path, what: str) -> Path:
    path = folder / "file"
    if what == "a folder":
        path.mkdir()
    elif what == "a link to itself":
        path.symlink_to(path)
    elif what == "a name with a zero":
        path = folder / "a\0b"
    return path


NO_FILE = {
    "a folder": "this is a folder", "a link to itself": "a link that leads to no file",
    "a name with a zero": "no such file", "nothing": "no such file",
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="links want rights there")
@pytest.mark.parametrize("what", NO_FILE)
def test_what_is_no_file_is_told(what: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=NO_FILE[what]):
        diagnose(no_file(tmp_path, what))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    command = [sys.executable, "-m", "hswq_core", "doctor", str(pipe)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "this is no ordinary file" in done.stderr
