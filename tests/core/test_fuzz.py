"""Every damaged file ends in one clear error, or in files that the official library opens."""

import copy
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.memory import reset_peak, resident
from hswq_core.convert_file import convert_checkpoint, targets
from hswq_core.errors import HSWQError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.inspection import inspect_checkpoint
from hswq_core.formats import FORMATS
from hswq_core.options import QuantizeOptions
from hswq_core.planning import make_plan, match_source
from hswq_core.quantize_file import quantize_checkpoint
from tests.core.capabilities import needs_memory_counters
from tests.core.conftest import PREFIX, Example

ROOT = Path(__file__).resolve().parents[2]
BATCHES = 5
CASES = int(os.environ.get("HSWQ_FUZZ_CASES", "500"))
"""For checkpoints and statistics each, and half as many command lines; 'nox -s fuzz' has eight times as many."""
Header = dict[str, object]


def split(data: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: object, data: bytes) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


STRANGE = [
    -1, 0, 1, 3, 7, 2**31, 2**63, 2**64, 10**30, 1.5, None, True, "", "F8_E4M3", "F16", "BF16", "F32", "I64", "F4",
    "U8", [], {}, [0], [2**62] * 4, [1] * 40, [0, 0], [-5, 5], [10, 5], "\ud800", "x" * 5000, {"dtype": "F16"}, [[1]],
]  # fmt: skip


def change_entry(rng: random.Random, header: Header, data: bytes) -> bytes:
    """One field of one tensor, or the whole entry, becomes something strange."""
    name = rng.choice(list(header))
    entry = header[name]
    if isinstance(entry, dict) and entry and rng.random() < 0.8:
        entry[rng.choice(list(entry))] = rng.choice(STRANGE)
    else:
        header[name] = rng.choice(STRANGE)
    return join(header, data)


def change_offsets(rng: random.Random, header: Header, data: bytes) -> bytes:
    """A tensor moves, grows, shrinks or lies over another."""
    entries = [e for k, e in header.items() if k != "__metadata__" and isinstance(e, dict)]
    entry = rng.choice(entries)
    offsets = entry["data_offsets"]
    assert isinstance(offsets, list)
    if rng.random() < 0.3:
        entry["data_offsets"] = list(rng.choice(entries)["data_offsets"])
    else:
        offsets[rng.randrange(2)] += rng.choice([-8, -2, -1, 1, 2, 8, 1 << 20, -(1 << 20)])
    return join(header, data)


def change_shape(rng: random.Random, header: Header, data: bytes) -> bytes:
    """The same number of elements in another shape, or another type of one size: valid, but unexpected."""
    entries = [e for k, e in header.items() if k != "__metadata__" and isinstance(e, dict)]
    entry = rng.choice(entries)
    shape = entry["shape"]
    assert isinstance(shape, list)
    if rng.random() < 0.5:
        total = 1
        for size in shape:
            total *= size
        entry["shape"] = rng.choice(
            [[total], [1, total], [total, 1], [1, 1, total], [total, 1, 1, 1], [1, total, 1, 1, 1]]
        )
    else:
        entry["dtype"] = rng.choice(["F16", "BF16", "I16", "U16", "F8_E4M3", "F8_E5M2"])
    return join(header, data)


def rename(rng: random.Random, header: Header, data: bytes) -> bytes:
    """A tensor takes a name that means something else."""
    old = rng.choice([k for k in header if k != "__metadata__"])
    new = rng.choice(
        [
            PREFIX + "blocks.0.scale",
            PREFIX + "scaled_fp8",
            "",
            ".weight",
            PREFIX + ".weight",
            "a\0b",
            "ü/..\\",
            old + ".weight",
        ]
    )
    return join({(new if k == old else k): v for k, v in header.items()}, data)


def flip_bytes(rng: random.Random, header: Header, data: bytes) -> bytes:
    """Any bytes of the file, most in the header."""
    whole = bytearray(join(header, data))
    end = len(whole) - len(data) if rng.random() < 0.8 else len(whole)
    for _ in range(rng.randint(1, 8)):
        whole[rng.randrange(end)] = rng.randrange(256)
    return bytes(whole)


def cut(rng: random.Random, header: Header, data: bytes) -> bytes:
    whole = join(header, data)
    return whole[: rng.randrange(len(whole))] if rng.random() < 0.7 else whole + b"\0" * rng.randint(1, 64)


def change_values(rng: random.Random, header: Header, data: bytes) -> bytes:
    """NaN, infinities, zeros and extremes in the weights: valid files of bad numbers."""
    whole = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(0, len(whole) - 1024, 2)
        length = rng.choice([2, 64, 512, 1024])
        pattern = rng.choice(
            [b"\x00\x7e", b"\x00\x7c", b"\x00\xfc", b"\x00\x00", b"\xff\x7b", b"\x01\x00", b"\x00\x80"]
        )
        whole[start : start + length] = pattern * (length // 2)
    return join(header, bytes(whole))


def empty_tensor(rng: random.Random, header: Header, data: bytes) -> bytes:
    header[f"{PREFIX}extra.weight"] = {
        "dtype": "F16",
        "shape": rng.choice([[0, 4], [4, 0], [0], [2, 0, 3, 3]]),
        "data_offsets": [len(data)] * 2,
    }
    return join(header, data)


MUTATIONS: list[Callable[[random.Random, Header, bytes], bytes]] = [
    change_entry, change_offsets, change_shape, rename, flip_bytes, cut, change_values, empty_tensor,
]  # fmt: skip


@pytest.mark.parametrize("batch", range(BATCHES))
def test_fuzz(example: Example, tmp_path: Path, batch: int) -> None:
    """Every damaged file ends in one of our errors, or in files that the official library opens."""
    rng = random.Random(batch)
    fp8 = dict(example.tensors)
    fp8[f"{PREFIX}blocks.0.weight"] = fp8[f"{PREFIX}blocks.0.weight"].to(torch.float8_e4m3fn)
    fp8[f"{PREFIX}blocks.0.scale"] = torch.tensor([0.5])
    save_file(fp8, tmp_path / "fp8.safetensors")
    originals = [split(p.read_bytes()) for p in (example.path, tmp_path / "fp8.safetensors")]
    damaged, target = tmp_path / "damaged.safetensors", tmp_path / "out.safetensors"
    outcomes = {"refused": 0, "written": 0}
    for case in range(CASES // BATCHES):
        header, data = copy.deepcopy(rng.choice(originals))
        damaged.write_bytes(MUTATIONS[case % len(MUTATIONS)](rng, header, data))
        statistics = rng.choice([example.statistics, None])
        mode = rng.choice(list(FORMATS))
        try:
            with CheckpointReader(damaged) as source:
                inspect_checkpoint(source)
                if rng.random() < 0.2:
                    convert_checkpoint(source, target, rng.choice(targets()))
                else:
                    selection = rng.choice(["variance", "error"])
                    ratio = 0.0 if statistics is None else 0.2
                    plan = make_plan(
                        match_source(source, statistics),
                        QuantizeOptions(mode=mode, keep_ratio=ratio, selection=selection),
                    )
                    quantize_checkpoint(match_source(source, statistics), plan, target)
        except HSWQError as error:
            assert len(str(error)) < 20000
            outcomes["refused"] += 1
        else:
            with CheckpointReader(target):
                pass
            outcomes["written"] += 1
        target.unlink(missing_ok=True)
        assert not list(tmp_path.glob(".*.tmp"))
    assert min(outcomes.values()) > CASES // BATCHES // 20, outcomes


@needs_memory_counters
@pytest.mark.parametrize("filler", ["[],", "{},", "[[[", '"a":{},'])
def test_a_header_of_brackets_is_refused_before_it_takes_memory(tmp_path: Path, filler: str) -> None:
    path = tmp_path / "bomb.safetensors"
    encoded = ('{"a":[' + filler * (24_000_000 // len(filler))).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded)
    reset_peak()
    started, before = time.monotonic(), resident("VmRSS")
    with pytest.raises(HSWQError, match="not a safetensors file"):
        CheckpointReader(path)
    assert time.monotonic() - started < 5 and resident("VmHWM") - before < 300e6


def test_a_header_of_more_than_100_mb_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_100)
    started = time.monotonic()
    with pytest.raises(HSWQError, match="safetensors allows 100,000,000"):
        CheckpointReader(path)
    assert time.monotonic() - started < 1
