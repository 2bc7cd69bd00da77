"""Measuring what many roundings of each layer do, together: in the memory that a few take."""

import pytest
import torch

from hswq_core.calibration import quantizable_layers
from hswq_core.sensitivity import gradient
from tests.core.test_measured_sensitivity import blocks


def test_with_many_changes_fewer_inputs_are_held_at_once_and_impacts_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, inputs = blocks(inference=False)
    layers = dict(quantizable_layers(net))
    monkeypatch.setattr(gradient, "RECOMPUTE_ABOVE", 6 * inputs[0]["0"].numel())
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda _net, given: sizes.append(len(given[0])))
    found = {}
    for count, images in ((1, 12), (2, 12), (8, 2)):
        sizes.clear()
        meter = gradient.GradientMeter(net, inputs, torch.device("cpu"), {}, vectors=1000, changes=count)
        changes = {name: [lambda weight, n=n: weight * 0.01 / (n + 1) for n in range(count)] for name in layers}
        found[count] = meter.impacts_of_each(layers, changes)
        assert max(sizes) == images
    for name, (first, *others) in found[8].items():
        assert first == pytest.approx(found[1][name][0], rel=0.15, abs=1e-14), name
        for number, impact in enumerate(others, 2):
            assert impact == pytest.approx(first / number**2, rel=0.01, abs=1e-14), name
