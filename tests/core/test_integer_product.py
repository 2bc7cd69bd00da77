"""The effect of a product of integers, whose inputs are rounded, too, on the layer's output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hswq_core.formats import FORMATS
from hswq_core.quantize_layer import quantize_layer
from hswq_core.rounding.rotation import rotated
from hswq_core.sensitivity.exact import ImpactMeter
from hswq_core.sensitivity.rounding_change import rounding_change
from tests.core.conftest import PREFIX, Example

INT8 = FORMATS["comfy-mixed"].form


@pytest.mark.parametrize("loud", [1.0, 40.0])
def test_the_effect_of_an_integer_product_is_what_stock_computes(example: Example, loud: float) -> None:
    generator = torch.Generator().manual_seed(6)
    measured = example.statistics.layers["blocks.0"]
    rows = torch.randn(300, 64, generator=generator)
    rows[:, 5] *= loud
    weight = example.tensors[f"{PREFIX}blocks.0.weight"].float()
    rounded = quantize_layer(weight, replace(measured, rows=rows.half()), INT8, "calibrated")
    assert (rounded.group > 1) == (loud > 1)
    change = rounding_change(rounded, INT8, is_nearest=False)
    x = torch.randn(2, 7, 64, generator=generator)
    effect, of_weight = change(weight), change.of_weight(weight)
    assert not isinstance(effect, torch.Tensor) and isinstance(of_weight, torch.Tensor)
    # In float64: rows of the input, rotated as the weight is, in integers by their largest value.
    turned = rotated(x.flatten(0, 1), rounded.group).double()
    step = turned.abs().amax(1, keepdim=True) / 127
    stored = rounded.codes.double() * rounded.scale.double()[:, None]
    exact = ((turned / step).round() * step) @ stored.t() - x.flatten(0, 1).double() @ weight.double().t()
    torch.testing.assert_close(effect(x).flatten(0, 1).double(), exact, rtol=1e-3, atol=1e-5)
    plain = rotated(stored.float(), rounded.group) - weight
    torch.testing.assert_close(of_weight, plain, rtol=1e-4, atol=1e-6)
    # A hook adds it to the layer's output.
    layer = torch.nn.Linear(64, 64, bias=False)
    layer.weight.data.copy_(weight)
    meter = ImpactMeter(layer, [{"0": x}], torch.device("cpu"), {})
    output = (x.flatten(0, 1).double() @ weight.double().t()).view(2, -1)
    expected = (exact.view(2, -1).square().sum(1) / output.square().sum(1)).mean()
    assert meter.impact(layer, effect) == pytest.approx(float(expected), rel=1e-3)
