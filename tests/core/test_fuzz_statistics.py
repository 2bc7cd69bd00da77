"""Damaged statistics and strange command lines: one clear error, or a file that the official library opens."""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core import cli, load_statistics, quantize
from hswq_core.calibration import save_statistics
from hswq_core.errors import HSWQError
from hswq_core.formats import FORMATS
from hswq_core.options import ROUNDINGS, SELECTIONS
from tests.core.conftest import Example, make_example
from tests.core.test_fuzz import BATCHES, CASES, MUTATIONS, STRANGE, split

VALUES = [float("nan"), float("inf"), -1.0, 0.0, 1e300, -1e300, 1e-300, 5e-324, 2.0**53, 2.0**70]


def rewritten(path: Path, rng: random.Random) -> bytes:
    """Statistics that the library wrote, with one value, one shape, one type or one text gone wrong."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    key = rng.choice(sorted(tensors))
    tensor = tensors[key].clone()
    kind = rng.randrange(6)
    if kind == 0 and tensor.is_floating_point() and tensor.numel():
        value = torch.tensor(rng.choice(VALUES), dtype=torch.float64).to(tensor.dtype)
        tensor.flatten()[rng.randrange(tensor.numel())] = value
        tensors[key] = tensor
    elif kind == 1:
        flat = tensor.flatten()
        tensors[key] = rng.choice([flat[:1], tensor[None], flat[:0], torch.cat([flat, flat])]).clone()
    elif kind == 2:
        dtype = rng.choice([torch.int64, torch.bool, torch.bfloat16, torch.float64])
        tensors[key] = tensor.nan_to_num().clamp(-100, 100).to(dtype)
    elif kind == 3:
        del tensors[key]
    else:
        name = rng.choice(sorted(metadata.keys() - {"hswq.kind"}))
        texts = [json.dumps(value) for value in STRANGE] + ["", "{", "[" * 3000, "9" * 500, "\u0660"]
        metadata[name] = rng.choice([*texts, metadata[name][:-1]]).encode("utf-8", "replace").decode()
    changed = path.with_name("changed.safetensors")
    save_file(tensors, changed, metadata=metadata)
    return changed.read_bytes()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_damaged_statistics(example: Example, tmp_path: Path, batch: int) -> None:
    rng = random.Random(100 + batch)
    impacts = dict.fromkeys(example.statistics.layers, 0.1)
    original = tmp_path / "stats.safetensors"
    save_statistics(example.statistics.with_impacts(impacts, "v2 nearest"), original)
    header, data = split(original.read_bytes())
    damaged, target = tmp_path / "damaged.safetensors", tmp_path / "out.safetensors"
    outcomes = {"refused": 0, "written": 0}
    for case in range(CASES // BATCHES):
        if case % 2:
            damaged.write_bytes(rewritten(original, rng))
        else:
            damaged.write_bytes(rng.choice(MUTATIONS[:6])(rng, *copy.deepcopy((header, data))))
        try:
            found = load_statistics(damaged)
            quantize(
                example.path, target, found, mode=rng.choice(list(FORMATS)), keep_ratio=0.3,
                selection=rng.choice(SELECTIONS), rounding=rng.choice(ROUNDINGS), device="cpu",
            )  # fmt: skip
            save_statistics(found + found, tmp_path / "sum.safetensors")
        except HSWQError as error:
            assert len(str(error)) < 20000
            outcomes["refused"] += 1
        else:
            written = load_file(target)
            assert all(tensor.float().isfinite().all() for tensor in written.values() if tensor.is_floating_point())
            load_statistics(tmp_path / "sum.safetensors")
            outcomes["written"] += 1
        target.unlink(missing_ok=True)
        assert not list(tmp_path.glob(".*.tmp"))
    assert min(outcomes.values()) > CASES // BATCHES // 40, outcomes


def test_strange_command_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(200)
    monkeypatch.chdir(tmp_path)
    example = make_example(tmp_path, seed=0)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    fp8 = tmp_path / "v2.safetensors"
    quantize(example.path, fp8, example.statistics, mode="v2", device="cpu")
    files = [
        example.path, example.statistics_path, fp8, tmp_path / "empty", tmp_path / "folder", tmp_path / "missing",
        tmp_path / "no/folder/x", tmp_path / ("x" * 300), tmp_path / "new.safetensors", "", "-", "\0", "/dev/null",
    ]  # fmt: skip
    words = [
        "--mode", "v2", "v1", "int8", "comfy", "v3", "--stats", "--keep-ratio", "0.5", "nan", "-1", "1e400", "--budget",
        "57%", "9" * 400, "3.2GB", "-5%", "--selection", "error", "measured", "--rounding", "calibrated", "--scales",
        "channel", "--keep", "*", "[", "--quantize", "blocks.*", "--device", "cpu", "meta", "cuda:99", "--dry-run",
        "--json", "--overwrite", "--to", "fp16", "comfy-int8", "--quiet", "", "--nothing",
    ]  # fmt: skip
    kept = {path: path.read_bytes() for path in (example.path, example.statistics_path, fp8)}
    codes = {0: 0, 2: 0}
    for _ in range(CASES // 2):
        command = rng.choice(["inspect", "quantize", "convert", "merge-stats", "quantize"])
        line = [command, *(str(rng.choice(files)) for _ in range(rng.randint(1, 3)))]
        if command == "quantize" and rng.random() < 0.5:
            line = [command, str(example.path), str(tmp_path / "new.safetensors"), "--mode", rng.choice(list(FORMATS))]
            line += ["--stats", str(example.statistics_path)]
        line += [rng.choice(words) for _ in range(rng.randint(0, 4))]
        try:
            code = cli.main(line)
        except SystemExit as end:
            code = end.code
        codes[code] += 1  # type: ignore[index]
        said = capsys.readouterr()
        assert code == 0 or (said.err.startswith("hswq: ") and said.err.count("\n") == 1), (line, said.err)
        for name in ("new.safetensors", "-"):
            (tmp_path / name).unlink(missing_ok=True)
        assert not list(tmp_path.glob(".*.tmp"))
        for path, data in kept.items():
            if path.read_bytes() != data:
                assert "--overwrite" in line, line
                path.write_bytes(data)
    assert min(codes.values()) > CASES // 100, codes
