"""A layer that cannot be rounded by its calibration is rounded to nearest, and the report says which and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hswq_core import quantize
from hswq_core.calibration import LayerStatistics
from hswq_core.calibration.rows import tensor_of
from hswq_core.formats import COMFY_INT8, FORMATS, Form
from hswq_core.quantize_layer import quantize_layer
from tests.core.conftest import PREFIX, Example

BAD = "blocks.3"


def spoiled(layer: LayerStatistics, how: str) -> LayerStatistics:
    assert layer.rows is not None
    rows, sums = tensor_of(layer.rows).clone(), layer.input_sums.clone()
    if how == "rows":
        rows[2, 5] = float("nan")
    elif how == "sums":
        sums[:, 7] = float("inf")
    else:
        sums[2] *= 1e42  # finite, and beyond float32
    return replace(layer, rows=rows, input_sums=sums)


@pytest.mark.parametrize(
    ("how", "why"),
    [("rows", "sampled inputs hold NaN"), ("sums", "statistics hold NaN"), ("moments", "too large for float32")],
)
def test_one_bad_layer_is_rounded_to_nearest_and_said(example: Example, tmp_path: Path, how: str, why: str) -> None:
    layers = {**example.statistics.layers, BAD: spoiled(example.statistics.layers[BAD], how)}
    statistics = replace(example.statistics, layers=layers)
    options = {"mode": "v2", "rounding": "calibrated", "keep_ratio": 0.0}
    report = quantize(example.path, tmp_path / "out.safetensors", statistics, **options)
    assert list(report.fallbacks) == [BAD] and why in report.fallbacks[BAD]
    said = f"layer {BAD} was rounded to nearest: {report.fallbacks[BAD]}"
    assert said in report.notes and said in str(report)
    assert report.as_dict()["rounded_to_nearest"] == dict(report.fallbacks)
    assert report.calibrated_layers == report.quantized_layers - 1

    # The others are what they are without the bad one.
    plain = quantize(example.path, tmp_path / "plain.safetensors", example.statistics, **options)
    assert not plain.fallbacks and not any("nearest" in note for note in plain.notes)
    found, expected = load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "plain.safetensors")
    same = {key for key in found if torch.equal(found[key].view(torch.uint8), expected[key].view(torch.uint8))}
    assert {key.removeprefix(PREFIX).rpartition(".")[0] for key in found.keys() - same} == {BAD}
    weight, scale = example.tensors[f"{PREFIX}{BAD}.weight"], found[f"{PREFIX}{BAD}.scale"]
    nearest = (weight.float() / scale).to(torch.float8_e4m3fn)
    assert torch.equal(found[f"{PREFIX}{BAD}.weight"].view(torch.uint8), nearest.view(torch.uint8))


FORMS = {name: each.form for name, each in FORMATS.items()} | {"rotated": COMFY_INT8.form_for("tensor", rotate=True)}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_rounds_such_a_layer(example: Example, form: Form) -> None:
    measured = spoiled(example.statistics.layers[BAD], "rows")
    weight = example.tensors[f"{PREFIX}{BAD}.weight"]
    found = quantize_layer(weight, measured, form, "calibrated")
    assert found.fallback and found.gain is None and found.group == 1
