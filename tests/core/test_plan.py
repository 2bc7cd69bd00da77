"""Which layers a plan keeps, and that it knows the file's size before it is written."""

import dataclasses
import json
import ntpath
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from hswq_core import quantize
from hswq_core.calibration import Statistics
from hswq_core.errors import CheckpointError, PlanError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.options import QuantizeOptions
from hswq_core.planning import QuantizationPlan, make_plan, match_source
from hswq_core.planning.selection import cut_by_bytes
from hswq_core.quantize_file import quantize_checkpoint
from hswq_core.sizes import parse_budget
from tests.core.conftest import PREFIX, WIDTH, Example


def plan(example: Example, **options: object) -> QuantizationPlan:
    with CheckpointReader(example.path) as source:
        return make_plan(match_source(source, example.statistics), QuantizeOptions(**({"mode": "v2"} | options)))


def without_fingerprint(example: Example) -> Statistics:
    """For tests that change the weights, which would be another model's otherwise."""
    return dataclasses.replace(example.statistics, fingerprint=None)


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy"])
@pytest.mark.parametrize("options", [{"keep_ratio": 0.25}, {"budget": "90%"}, {"keep_ratio": 0.0}], ids=str)
def test_the_planned_size_is_the_files(example: Example, tmp_path: Path, mode: str, options: dict[str, object]) -> None:
    target = tmp_path / "out.safetensors"
    with CheckpointReader(example.path) as source:
        planned = make_plan(match_source(source, example.statistics), QuantizeOptions(mode=mode, **options))
        report = quantize_checkpoint(match_source(source, example.statistics), planned, target)
    assert planned.nbytes == target.stat().st_size == report.bytes
    assert report.plan is planned


@pytest.mark.parametrize("selection", ["variance", "error"])
def test_a_budget_is_used_and_never_exceeded(example: Example, selection: str) -> None:
    smallest, largest = plan(example, keep_ratio=0.0).nbytes, plan(example, keep_ratio=1.0).nbytes
    previous = -1
    for allowed in range(smallest + 32, largest + 4000, 2000):
        planned = plan(example, budget=str(allowed), selection=selection)
        assert planned.nbytes <= allowed
        assert len(planned.kept) >= previous
        previous = len(planned.kept)
    assert previous == 11


def test_a_budget_that_is_too_small_says_what_is_possible(example: Example) -> None:
    smallest = plan(example, keep_ratio=0.0, budget="").nbytes
    with pytest.raises(PlanError) as caught:
        plan(example, budget="1kB")
    possible = int(re.findall(r"the file has ([0-9,]+)", str(caught.value))[0].replace(",", ""))
    assert abs(possible - smallest) < 32  # the options stand in the file, too
    assert len(plan(example, budget=str(possible)).kept) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.2GB", 3_200_000_000),
        ("57%", 570),
        ("800 MiB", 838_860_800),
        ("1024", 1024),
        ("2g", 2_000_000_000),
        ("5b", 5),
    ],
)
def test_budgets(text: str, expected: int) -> None:
    assert parse_budget(text, 1000) == expected


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "1e9", "3.2 XB", "nan", "50%%", "3ib", "9" * 400])
def test_texts_that_are_not_a_budget(text: str) -> None:
    with pytest.raises(PlanError, match="is not a size"):
        parse_budget(text, 1000)


def test_bytes_go_where_they_avoid_most() -> None:
    sensitivity, cost = {"large": 10.0, "small": 6.0, "tiny": 5.0}, {"large": 100, "small": 50, "tiny": 50}
    assert cut_by_bytes(sensitivity, cost, 100, per_byte=True) == {"small", "tiny"}
    assert cut_by_bytes(sensitivity, cost, 100, per_byte=False) == {"large"}


def test_patterns_decide_beforehand(example: Example) -> None:
    planned = plan(example, keep_ratio=0.2, force_keep=["conv", "blocks.[01]"], force_quantize=["blocks.9"])
    assert {layer.layer for layer in planned.kept} == {"conv", "blocks.0", "blocks.1", "blocks.8", "blocks.7"}
    with pytest.raises(PlanError, match="no layer matches"):
        plan(example, force_keep=["transformer.*"])


def test_a_plan_prints_every_layer_and_its_reason(example: Example) -> None:
    planned = plan(example, keep_ratio=0.1)
    assert str(planned).count("\n") == 11 and "top 0.1 by variance" in str(planned)
    assert json.loads(json.dumps(planned.as_dict()))["layers"]["blocks.0"]["quantize"] is True


def test_a_file_that_is_quantized_already_is_refused(example: Example) -> None:
    key = f"{PREFIX}blocks.0.weight"
    example.statistics = without_fingerprint(example)
    for dtype in (torch.float8_e4m3fn, torch.int8):
        save_file(example.tensors | {key: example.tensors[key].to(dtype)}, example.path)
        with pytest.raises(CheckpointError, match="1 of 11 layers are quantized already") as caught:
            plan(example, keep_ratio=0.0)
        assert "Quantize the original" in str(caught.value)


def test_a_quantized_file_is_told_as_such_whatever_the_statistics_are_of(example: Example, tmp_path: Path) -> None:
    target = tmp_path / "v2.safetensors"
    quantize(example.path, target, example.statistics, mode="v2", keep_ratio=0.1)
    with pytest.raises(CheckpointError, match="quantized already"):
        quantize(target, tmp_path / "again.safetensors", example.statistics, mode="v2", keep_ratio=0.1)


@pytest.mark.parametrize("shape", [(0,), (WIDTH + 1,), (1, WIDTH)])
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_bias_of_another_shape_is_refused(
    example: Example, tmp_path: Path, shape: tuple[int, ...], calibrated: bool
) -> None:
    example.tensors[f"{PREFIX}blocks.2.bias"] = torch.zeros(shape).half()
    save_file(example.tensors, example.path)
    target = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match=r"layer blocks\.2: its bias is \["):
        quantize(example.path, target, example.statistics if calibrated else None, mode="v2", keep_ratio=0)
    assert not target.exists()


def test_patterns_tell_case_on_every_system(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fnmatch.os", SimpleNamespace(path=ntpath))  # as on Windows
    assert plan(example, keep_ratio=0, force_keep=("blocks.1",)).kept
    with pytest.raises(PlanError, match="no layer matches"):
        plan(example, keep_ratio=0, force_keep=("Blocks.1",))


@pytest.mark.parametrize("suffix", [".scale", ".weight.scale", ".weight_scale", ".scale_weight", ".comfy_quant"])
def test_a_layer_beside_what_looks_like_its_scale_is_kept(example: Example, suffix: str) -> None:
    """Quantized, it would be read with that scale."""
    save_file(example.tensors | {f"{PREFIX}blocks.0{suffix}": torch.ones(1)}, example.path)
    for mode in ("v1", "v2", "comfy", "int8", "comfy-int8"):
        reasons = {e.layer: e.reason for e in plan(example, mode=mode, keep_ratio=0.0).kept}
        assert f"has a tensor {suffix}" in reasons["blocks.0"]


def test_v1_keeps_what_it_would_clip(example: Example) -> None:
    key = f"{PREFIX}blocks.3.weight"
    tensors = example.tensors | {key: example.tensors[key].clone()}
    tensors[key][0, 0] = 500.0
    example.statistics = without_fingerprint(example)
    save_file(tensors, example.path)
    reasons = {e.layer: e.reason for e in plan(example, mode="v1", keep_ratio=0.0).kept}
    assert reasons["blocks.3"] == "holds weights beyond 448"
    assert "blocks.3" not in {e.layer for e in plan(example, mode="v2", keep_ratio=0.0).kept}


def test_one_part_of_several_files_is_refused(example: Example) -> None:
    part = example.path.with_name("model-00001-of-00002.safetensors")
    example.path.rename(part)
    example.path = part
    with pytest.raises(CheckpointError, match="one part of a model in several files"):
        plan(example, keep_ratio=0.0)


def test_a_layer_that_never_ran_is_kept_and_the_model_is_known_all_the_same(example: Example) -> None:
    ran = {name: layer for name, layer in example.statistics.layers.items() if name != "blocks.3"}
    example.statistics = dataclasses.replace(example.statistics, layers=ran)
    reasons = {e.layer: e.reason for e in plan(example, keep_ratio=0.0).kept}
    assert reasons == {"blocks.3": "never ran during calibration"}
