"""Files in which every layer has its own bits: their size, what they predict, what is stored, what is refused."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core.api import convert, inspect, plan, quantize
from hswq_core.cli import main
from hswq_core.errors import CheckpointError, PlanError, StatisticsError
from hswq_core.formats import FORMATS
from hswq_core.grids.group_scales import GROUP
from hswq_core.publishing import publish
from tests.core.conftest import PREFIX, Example
from tests.core.test_bits import read_by_hand

FORMS = FORMATS["mixed"].forms


def measured(example: Example, rounding: str = "nearest") -> None:
    """Give the example impacts for every form: layers later in the net matter more."""
    for number, form in enumerate(FORMS):
        impacts = {
            name: 10.0 ** (-4 - 1.5 * number - (place % 3))
            for place, name in enumerate(sorted(example.statistics.layers))
        }
        example.statistics = example.statistics.with_impacts(impacts, f"{form.name} {rounding}")


@pytest.mark.parametrize("share", [0.3, 0.4, 0.6, 0.9])
def test_a_file_has_at_most_its_budget_and_nearly_all_of_it(example: Example, tmp_path: Path, share: float) -> None:
    measured(example)
    path = tmp_path / "mixed.safetensors"
    least = plan(example.path, example.statistics, mode="mixed", target="0.9").nbytes
    budget = int(least + share * (example.path.stat().st_size - least))
    report = quantize(example.path, path, example.statistics, mode="mixed", budget=str(budget))
    assert report.bytes == path.stat().st_size <= budget
    largest = max(layer.info.nbytes for layer in report.plan.layers)
    assert report.bytes > budget - largest or not report.plan.quantized
    found = inspect(path)
    assert found.format == "mixed" and len(found.quantized) == len(report.plan.quantized)
    said = json.loads(found.metadata["hswq.layers_by_form"])
    assert said == report.plan.layers_by_form and sum(said.values()) == len(report.plan.layers)
    assert float(found.metadata["hswq.predicted_error"]) == pytest.approx(report.plan.predicted_error, rel=1e-3)


def test_more_bytes_and_lower_targets_predict_less_error(example: Example) -> None:
    measured(example)
    by_target = [plan(example.path, example.statistics, mode="mixed", target=t) for t in ("1e-3", "1e-4", "1e-6")]
    for made, target in zip(by_target, (1e-3, 1e-4, 1e-6), strict=True):
        assert made.predicted_error is not None and made.predicted_error <= target
    assert [made.nbytes for made in by_target] == sorted(made.nbytes for made in by_target)
    for options in ({"target": "1e-16"}, {"budget": "300%"}):
        with pytest.raises(PlanError, match="nothing would be quantized"):
            plan(example.path, example.statistics, mode="mixed", **options)


def test_what_is_stored_is_the_definition_of_each_form(example: Example, tmp_path: Path) -> None:
    for number, form in enumerate(FORMS):  # each layer is to have another form
        impacts = {
            name: 1e-2 if number < place % len(FORMS) else 1e-8
            for place, name in enumerate(sorted(example.statistics.layers))
        }
        example.statistics = example.statistics.with_impacts(impacts, f"{form.name} nearest")
    path = tmp_path / "mixed.safetensors"
    report = quantize(example.path, path, example.statistics, mode="mixed", target="1e-5", force_quantize="conv")
    tensors = load_file(path)
    assert len({layer.form.name for layer in report.plan.quantized if layer.form}) == min(
        len(FORMS), len(example.statistics.layers)
    )
    plain = load_file(convert(path, tmp_path / "fp16.safetensors", "fp16").file)
    for layer in report.plan.quantized:
        shape, stem = layer.info.shape, layer.stem
        stored, scale = tensors[f"{stem}.weight"], tensors[f"{stem}.weight_scale"].float()
        columns, bits = math.prod(shape[1:]), 8
        if stored.dtype == torch.int8:
            weight = stored.flatten(1).float() * scale
        else:
            said = json.loads(bytes(tensors[f"{stem}.comfy_quant"].tolist()))
            bits = int(said["format"].removeprefix("hswq_int"))
            assert tuple(said["shape"]) == shape and said["group_size"] == GROUP
            codes = torch.tensor([read_by_hand(bytes(row.tolist()), bits, columns) for row in stored])
            weight = codes.float() * scale.repeat_interleave(GROUP, 1)[:, :columns]
        assert torch.equal(plain[layer.key], weight.view(shape).half()), layer.layer
        original = example.tensors[layer.key].float()
        assert (weight.view(shape) - original).square().mean() < 4 / 4**bits * original.square().mean()


def test_patterns_decide_beforehand(example: Example) -> None:
    measured(example)
    made = plan(
        example.path, example.statistics, mode="mixed", target="1e-12", force_quantize="blocks.3", force_keep="blocks.1"
    )
    by_name = {layer.layer: layer for layer in made.layers}
    assert by_name["blocks.3"].form is not None and by_name["blocks.3"].form.name == "int8"  # the best that it may have
    assert by_name["blocks.1"].form is None and by_name["blocks.1"].reason == "kept by pattern"
    assert made.predicted_error == pytest.approx(by_name["blocks.3"].sensitivity)


def test_text_encoders_go_to_8_bits(example: Example, tmp_path: Path) -> None:
    measured(example)
    key = "conditioner.embedders.0.transformer.layers.0.mlp.fc1.weight"
    save_file(example.tensors | {key: torch.randn(32, 16).half()}, example.path)
    example.statistics = dataclasses.replace(example.statistics, fingerprint=None)
    path = tmp_path / "all.safetensors"
    quantize(example.path, path, example.statistics, mode="mixed", part="all", target="1e-3")
    assert load_file(path)[key].dtype == torch.int8


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget": "1kB"}, PlanError, "with every layer quantized the file has"),
        ({"target": "2"}, PlanError, "the target is '2'"),
        ({"target": "small"}, PlanError, "Give the error of the output"),
        ({"target": "1e-4", "budget": "50%"}, PlanError, "a target and a budget"),
        ({"mode": "v2", "target": "1e-4"}, PlanError, "a target is for mixed, comfy-mixed alone"),
        ({"rounding": "calibrated", "target": "1e-4"}, StatisticsError, "was not measured for int2 calibrated"),
    ],
)
def test_what_cannot_be_is_told(example: Example, options: dict[str, str], error: type, words: str) -> None:
    measured(example)
    with pytest.raises(error, match=words):
        plan(example.path, example.statistics, **({"mode": "mixed"} | options))


def test_it_needs_measured_impacts(example: Example) -> None:
    example.statistics = example.statistics.with_impacts(dict.fromkeys(example.statistics.layers, 1e-5), "int8 nearest")
    with pytest.raises(StatisticsError, match="not measured for int2 nearest"):
        plan(example.path, example.statistics, mode="mixed")


@pytest.mark.parametrize("damage", ["shape", "scale", "group", "codes", "negative"])
def test_codes_scales_and_shape_must_belong_together(example: Example, tmp_path: Path, damage: str) -> None:
    measured(example)
    path = tmp_path / "mixed.safetensors"
    made = quantize(example.path, path, example.statistics, mode="mixed", target="0.9").plan
    stem = next(layer.stem for layer in made.quantized if layer.form and layer.form.bits < 8)
    tensors = load_file(path)
    said = json.loads(bytes(tensors[f"{stem}.comfy_quant"].tolist()))
    if damage == "shape":
        said["shape"][1] += 64
    elif damage == "group":
        said["group_size"] = 32
    elif damage == "scale":
        tensors[f"{stem}.weight_scale"] = tensors[f"{stem}.weight_scale"].float()
    elif damage == "negative":
        tensors[f"{stem}.weight_scale"] = -tensors[f"{stem}.weight_scale"]
    else:
        tensors[f"{stem}.weight"] = tensors[f"{stem}.weight"][:, :-1].contiguous()
    tensors[f"{stem}.comfy_quant"] = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    save_file(tensors, path, {"hswq.mode": "mixed"})
    with pytest.raises(CheckpointError, match="do not belong together"):
        convert(path, tmp_path / "out.safetensors", "fp16")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_command_line_writes_it(example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(example)
    from hswq_core.calibration import save_statistics

    save_statistics(example.statistics, example.statistics_path)
    command = ["quantize", str(example.path), str(tmp_path / "m.safetensors"), "--mode", "mixed"]
    command += ["--stats", str(example.statistics_path)]
    assert main([*command, "--target", "1e-3"]) == 0
    assert re.search(r"\d+ in int2, .*kept", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main([*command, "--overwrite", "--target", "1e-3", "--budget", "50%"])


def test_a_layer_keeps_its_prefix(example: Example) -> None:
    measured(example)
    made = plan(example.path, example.statistics, mode="mixed", target="1e-3")
    assert all(layer.key.startswith(PREFIX) for layer in made.quantized)


def test_without_statistics_there_is_nothing_to_choose_by(example: Example) -> None:
    with pytest.raises(PlanError, match="measured impact, and there are no statistics"):
        plan(example.path, mode="mixed", keep_ratio=0.0)


def test_an_impact_that_is_not_a_number_keeps_its_layer(example: Example) -> None:
    measured(example)
    for form in FORMS:
        example.statistics = example.statistics.with_impacts({"blocks.2": float("nan")}, f"{form.name} nearest")
    made = plan(example.path, example.statistics, mode="mixed", target="0.9")
    assert [layer.layer for layer in made.kept] == ["blocks.2"] and math.isfinite(made.predicted_error or math.nan)


def test_a_lost_description_is_missed(example: Example, tmp_path: Path) -> None:
    measured(example)
    path = tmp_path / "mixed.safetensors"
    quantize(example.path, path, example.statistics, mode="mixed", target="0.9")
    tensors = load_file(path)
    del tensors[next(key for key in tensors if key.endswith(".comfy_quant"))]
    save_file(tensors, path, {"hswq.mode": "mixed"})
    with pytest.raises(CheckpointError, match="the description of the quantized layer"):
        convert(path, tmp_path / "out.safetensors", "fp16")
    said = torch.tensor(list(b'{"format": ["hswq_int4"]}'), dtype=torch.uint8)
    key = next(key for key in tensors if key.endswith(".comfy_quant"))
    save_file(tensors | {key: said}, path, {"hswq.mode": "mixed"})
    assert "unknown" in inspect(path).grid or "hswq_int4" in inspect(path).grid


def test_a_card_says_what_a_mixed_file_is(example: Example, tmp_path: Path) -> None:
    measured(example)
    path = tmp_path / "mixed.safetensors"
    quantize(example.path, path, example.statistics, mode="mixed", target="1e-3")
    said = (publish(path, tmp_path / "card").folder / "README.md").read_text(encoding="utf-8")
    assert "8-bit copy" not in said and re.search(r"layers in int\d", said) and "predicted error" in said
    share = int(re.findall(r"(\d+)% of 16 bits", said)[0]) / 100
    assert share == pytest.approx(path.stat().st_size / example.path.stat().st_size, abs=0.1)
