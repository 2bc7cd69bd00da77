"""The core as a script uses it: a few functions on files by name."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hswq_core
from hswq_core import (
    HSWQError,
    QuantizeOptions,
    convert,
    inspect,
    load_statistics,
    merge_statistics,
    quantize,
)
from hswq_core.api import device_of, plan
from hswq_core.errors import CheckpointError, PlanError, StatisticsError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.live_source import LiveSource, LiveTensor, StoredTensor
from hswq_core.planning import make_plan, match_source
from hswq_core.quantize_file import quantize_checkpoint
from tests.core.conftest import PREFIX, Example, make_example

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", [str, Path])
def test_the_three_lines_of_the_readme(example: Example, tmp_path: Path, kind: type) -> None:
    target = kind(tmp_path / "out.safetensors")
    statistics = load_statistics(kind(example.statistics_path))
    report = quantize(kind(example.path), target, statistics, mode="v2", keep_ratio=0.25)
    assert report.kept_layers == 3 and report.quantized_layers == 8 and report.bytes == Path(target).stat().st_size
    found = inspect(target)
    assert found.format == "v2" and set(found.quantized) == {e.layer for e in report.plan.quantized}
    back = convert(target, kind(tmp_path / "back.safetensors"), "fp16")
    assert back.quantized == () and len(back.expanded) == 8
    assert inspect(back.file).format == "not quantized"


def test_the_doctor_is_imported_when_it_is_asked() -> None:
    """It is as much as a third of the rest, and every start of ComfyUI would wait for it."""
    code = "import sys, hswq_core; assert 'hswq_core.doctor' not in sys.modules, 'imported at start'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_options_are_a_value_or_its_fields(example: Example, tmp_path: Path) -> None:
    options = QuantizeOptions(mode="v1", keep_ratio=0.1, force_keep="conv")
    assert options.force_keep == ("conv",) and hash(options) == hash(QuantizeOptions("v1", 0.1, force_keep=["conv"]))
    made = plan(example.path, example.statistics, options, mode="v2")
    assert made.format.name == "v2" and made.options.force_keep == ("conv",)
    with pytest.raises(PlanError, match="The options are: mode"):
        quantize(example.path, tmp_path / "x.safetensors", keep_ration=0.1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": "V2"}, "Did you mean 'v2'"),
        ({"selection": "measure"}, "Did you mean 'measured'"),
        ({"rounding": "calibrate"}, "Did you mean 'calibrated'"),
        ({"scales": "?"}, "Choose one of: tensor, channel"),
        ({"mode": "comfy", "scales": "channel"}, "a choice of v2 alone"),
        ({"keep_ratio": float("nan")}, "from 0"),
        ({"keep_ratio": 1.01}, "from 0"),
    ],
    ids=str,
)
def test_options_check_themselves(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=re.escape(said)):
        QuantizeOptions(**wrong)


def test_statistics_are_merged_from_values_and_files(example: Example) -> None:
    total = merge_statistics([example.statistics, str(example.statistics_path)])
    assert total.runs == 6 and total.samples == 24


@pytest.mark.parametrize("device", ["meta", "cuda:99", "tpu", ""])
def test_devices_that_cannot_be_used(example: Example, tmp_path: Path, device: str) -> None:
    with pytest.raises(PlanError, match="there is no device"):
        quantize(example.path, tmp_path / "x.safetensors", keep_ratio=0, device=device)
    assert not (tmp_path / "x.safetensors").exists()


def test_the_reported_error_is_that_of_the_codes_written(example: Example, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    report = quantize(example.path, target, example.statistics, keep_ratio=0, rounding="calibrated")
    assert report.calibrated_layers
    written, expected = load_file(target), 0.0
    for name, measured in example.statistics.layers.items():
        key = f"{PREFIX}{name}.weight"
        change = written[key].float() * written[f"{PREFIX}{name}.scale"] - example.tensors[key].float()
        expected += float((change.movedim(1, -1).double().square() @ measured.importance).sum())
    assert report.weighted_error == pytest.approx(expected, rel=1e-3)


def test_a_plan_belongs_to_its_source(example: Example, tmp_path: Path) -> None:
    other = make_example(tmp_path, seed=1)
    target = tmp_path / "out.safetensors"
    with CheckpointReader(example.path) as source:
        made = make_plan(match_source(source, example.statistics), QuantizeOptions())
    with CheckpointReader(other.path) as source, pytest.raises(PlanError, match="for another file"):
        quantize_checkpoint(match_source(source), made, target)
    example.path.touch()
    with CheckpointReader(example.path) as source, pytest.raises(PlanError, match="in another state"):
        quantize_checkpoint(match_source(source, example.statistics), made, target)
    assert not target.exists()


def test_a_source_that_is_rewritten_in_place_is_refused(example: Example, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"

    def rewrite(done: int, _total: int) -> None:
        if done:
            with example.path.open("r+b") as file:
                file.seek(-64, 2)
                file.write(bytes(64))

    with pytest.raises(HSWQError, match="changed while it was read"):
        quantize(example.path, target, keep_ratio=0, progress=rewrite)
    assert not target.exists() and not list(tmp_path.glob(".*"))


def test_the_version_is_the_same_everywhere() -> None:
    version = hswq_core.__version__
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "docs/changelog.md").read_text(encoding="utf-8")


def test_tensors_in_memory_are_quantized_as_a_file_is_and_stay_as_they_were(example: Example, tmp_path: Path) -> None:
    before = {key: tensor.clone() for key, tensor in example.tensors.items()}
    live = {key: LiveTensor(tensor) for key, tensor in example.tensors.items() if key.startswith(PREFIX)}
    with CheckpointReader(example.path) as rest:
        source = LiveSource("a model in memory", live, rest, frozenset(rest.tensors.keys() - live.keys()))
        quantize(source, tmp_path / "live.safetensors", example.statistics, mode="v2", rounding="calibrated")
    quantize(example.path, tmp_path / "file.safetensors", example.statistics, mode="v2", rounding="calibrated")
    a, b = (load_file(tmp_path / name) for name in ("live.safetensors", "file.safetensors"))
    assert a.keys() == b.keys() and all(torch.equal(a[key].float(), b[key].float()) for key in a)
    assert all(torch.equal(example.tensors[key], before[key]) for key in before)


def test_patches_are_made_when_a_tensor_is_read(example: Example, tmp_path: Path) -> None:
    key = f"{PREFIX}blocks.0.weight"
    live = {name: LiveTensor(tensor) for name, tensor in example.tensors.items()}
    live[key] = LiveTensor(example.tensors[key], lambda _dtype: example.tensors[key] * 2)
    source = LiveSource("patched", live, patches="abc")
    with pytest.raises(StatisticsError, match="calibrated without a LoRA or a merge on top"):
        quantize(source, tmp_path / "x.safetensors", example.statistics, mode="v2")
    quantize(source, tmp_path / "x.safetensors", mode="v2", keep_ratio=0.0)
    written = load_file(tmp_path / "x.safetensors")
    restored = written[key].float() * written[key.replace("weight", "scale")]
    assert (restored / 2 - example.tensors[key].float()).abs().max() < example.tensors[key].abs().max() / 16
    live[key] = LiveTensor(example.tensors[key], lambda _dtype: example.tensors[key][:2])
    with pytest.raises(CheckpointError, match="a patch changes the shape"):
        quantize(LiveSource("patched", live), tmp_path / "y.safetensors", mode="v2", keep_ratio=0.0)
    assert not (tmp_path / "y.safetensors").exists()


def test_a_model_held_in_other_types_is_written_as_its_file_has_it(example: Example, tmp_path: Path) -> None:
    """float32 where a device has no arithmetic in 16 bits, bfloat16 as VAEs are held; patches are rounded once."""
    patched = f"{PREFIX}blocks.0.weight"
    with CheckpointReader(example.path) as file:
        live = {}
        for key, tensor in example.tensors.items():
            held = tensor.to(torch.float32 if key.startswith(PREFIX) else torch.bfloat16)
            is_float = tensor.is_floating_point()
            live[key] = LiveTensor(held, origin=StoredTensor(file, key)) if is_float else LiveTensor(tensor)
        more = live[patched].original * (1 + 2**-9)
        live[patched] = replace(live[patched], compute_patched=more.to)
        target = tmp_path / "live.safetensors"
        quantize(LiveSource("held", live), target, mode="v2", keep_ratio=0.0, force_keep=("blocks.0",))
    written = load_file(target)
    quantized = {key for key in written if written[key].element_size() == 1}
    assert quantized
    for key, tensor in example.tensors.items():
        if key not in quantized:
            expected = more.to(tensor.dtype) if key == patched else tensor
            assert written[key].dtype == tensor.dtype and torch.equal(written[key], expected), key


def test_what_memory_no_longer_holds_of_its_file_is_written_as_memory_has_it(example: Example, tmp_path: Path) -> None:
    key = next(key for key in example.tensors if not key.startswith(PREFIX))
    with CheckpointReader(example.path) as file:
        held = example.tensors[key].float() + 1
        live = {name: LiveTensor(tensor) for name, tensor in example.tensors.items()}
        live[key] = LiveTensor(held, origin=StoredTensor(file, key))
        quantize(LiveSource("changed", live), tmp_path / "x.safetensors", mode="v2", keep_ratio=0.0)
    assert torch.equal(load_file(tmp_path / "x.safetensors")[key], held.to(example.tensors[key].dtype))


def test_a_device_that_is_not_there_is_said_in_a_line() -> None:
    with pytest.raises(PlanError, match="there is no device 'mps'") as caught:
        device_of("mps")
    assert len(str(caught.value)) < 200
