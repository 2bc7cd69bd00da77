"""Ranking by the error of a layer's own output: as the format rounds it, against the definition in float64."""

import dataclasses
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hswq_core.calibration.rows import tensor_of
from hswq_core.grids import E4M3, INT8, Grid
from hswq_core.rounding.rotation import best_group, rotated
from hswq_core.rounding.weight import quantize_weight
from tests.core.conftest import PREFIX, WIDTH, Example
from tests.core.test_plan import plan, without_fingerprint


def test_error_selection_keeps_what_fp8_hurts_most(example: Example) -> None:
    """Weights just above FP8's subnormal threshold round well, tiny ones badly: V1 must keep the tiny ones."""
    for i in range(10):
        key = f"{PREFIX}blocks.{i}.weight"
        generator = torch.Generator().manual_seed(i)
        size = 1e-3 if i in (2, 7) else 0.1
        example.tensors[key] = (torch.randn(WIDTH, WIDTH, generator=generator) * size).half()
    save_file(example.tensors, example.path)
    example.statistics = without_fingerprint(example)
    kept = plan(example, mode="v1", keep_ratio=0.15, selection="error").kept
    assert {layer.layer for layer in kept} == {"blocks.2", "blocks.7"}
    assert all(layer.sensitivity is not None and layer.sensitivity > 0 for layer in kept)


def naive_error(weight: torch.Tensor, moment: torch.Tensor, scale: torch.Tensor, grid: Grid) -> float:
    """The relative output error in float64, from its definition."""
    exact, unit = weight.double(), scale.double().view(-1, 1)
    if grid is INT8:
        found = (exact / unit).round().clamp(-127, 127) * unit
    else:
        found = (exact / unit).float().to(torch.float8_e4m3fn).double() * unit
    return float(((found - exact).square() @ moment.double()).sum() / (exact.square() @ moment.double()).sum())


@pytest.mark.parametrize(
    "options", [{"mode": "int8"}, {"mode": "comfy-int8"}, {"mode": "v2", "scales": "channel"}, {"mode": "v2"}], ids=str
)
def test_errors_are_ranked_by_the_scales_of_the_format(example: Example, options: dict[str, Any]) -> None:
    """Rows of very different sizes: one scale for all of them would lose the small ones, one for each does not."""
    for number in range(10):
        weight = example.tensors[f"{PREFIX}blocks.{number}.weight"]
        weight.mul_(torch.logspace(0, -0.4 * number, len(weight))[:, None])
    save_file(example.tensors, example.path)
    example.statistics = without_fingerprint(example)
    made = plan(example, selection="error", keep_ratio=0.3, force_keep=("conv*",), **options)
    grid = INT8 if "int8" in options["mode"] else E4M3
    for layer in made.layers:
        if layer.sensitivity is None:
            continue
        weight, measured = example.tensors[layer.key], example.statistics.layers[layer.layer]
        written = quantize_weight(
            weight,
            grid=grid,
            scaling="tensor" if options == {"mode": "v2"} else "channel",
            importance=measured.importance,
        )
        expected = naive_error(weight, measured.second_moment, written.scale, grid)
        assert layer.sensitivity == pytest.approx(expected, rel=1e-3), layer.layer
    assert sum(layer.sensitivity is not None for layer in made.layers) == 10


def test_errors_of_rotated_layers_are_those_of_rotated_weights(example: Example) -> None:
    """An outlying channel of the input: the file rotates the layer, and so does the ranking."""
    layer = example.statistics.layers["blocks.0"]
    rows = tensor_of(layer.rows).clone()  # type: ignore[arg-type]
    rows[:, 5] = 300 * rows[:, 5]
    measured = dataclasses.replace(layer, rows=rows)
    layers = {**example.statistics.layers, "blocks.0": measured}
    example.statistics = dataclasses.replace(example.statistics, layers=layers)
    made = plan(example, mode="comfy-int8", rotate=True, selection="error", keep_ratio=0.3)
    weight = example.tensors[f"{PREFIX}blocks.0.weight"]
    group = best_group(weight, rows)
    assert group > 1
    turned, inputs = rotated(weight, group), rotated(rows, group)
    scale = turned.abs().amax(1) / 127
    expected = naive_error(turned, inputs.double().square().mean(0), scale, INT8)
    found = next(each.sensitivity for each in made.layers if each.layer == "blocks.0")
    assert found == pytest.approx(expected, rel=1e-3)
