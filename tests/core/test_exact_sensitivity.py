"""Measured sensitivity: the hook's answer is that of the changed weight, and what is measured decides what is kept."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hswq_core.calibration import DualMonitor, Statistics, load_statistics, save_statistics
from hswq_core.calibration.model_inputs import AT_MOST, PER_RUN
from hswq_core.errors import StatisticsError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.options import QuantizeOptions
from hswq_core.planning import make_plan
from hswq_core.sensitivity.exact import ImpactMeter
from tests.core.conftest import Example


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.linear = torch.nn.Linear(8, 4)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, *, context: torch.Tensor, options: dict[str, int]
    ) -> torch.Tensor:
        y = torch.tanh(self.conv(x)).movedim(1, -1)
        return self.linear(y) * t.view(-1, 1, 1, 1) + context.mean()


def calibrated(calls: int, batch: int = 4) -> tuple[Net, Statistics]:
    net, generator = Net(), torch.Generator().manual_seed(1)
    context = torch.randn(batch, 3, generator=generator)
    with torch.no_grad(), DualMonitor(net, 16) as monitor:
        for call in range(calls):
            x = torch.randn(batch, 4, 9, 9, generator=generator)
            net(x, torch.full((batch,), 1000.0 - call), context=context.clone(), options={})
    return net, monitor.statistics()


def test_a_hooks_impact_is_that_of_the_changed_weight() -> None:
    net, statistics = calibrated(5)
    meter = ImpactMeter(net, statistics.inputs, torch.device("cpu"), {"options": {}})
    for layer in (net.conv, net.linear):
        change = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(2)) * 0.01
        found = meter.impact(layer, change)
        with torch.no_grad():
            outputs = [net(e["0"], e["1"], context=e["context"], options={}) for e in statistics.inputs]
            layer.weight += change
            changed = [net(e["0"], e["1"], context=e["context"], options={}) for e in statistics.inputs]
            layer.weight -= change
        each = [
            ((b - a).square().sum((1, 2, 3)) / a.square().sum((1, 2, 3))) for a, b in zip(outputs, changed, strict=True)
        ]
        assert found == pytest.approx(float(torch.cat(each).mean()), rel=1e-3)
        assert not layer._forward_hooks


def test_inputs_are_spread_over_the_run_and_survive_the_file(tmp_path: Path) -> None:
    _, statistics = calibrated(100)
    times = [float(entry["1"][0]) for entry in statistics.inputs]
    assert len(times) == PER_RUN and times == sorted(times, reverse=True)
    assert times[0] > 980 and times[-1] < 930 and max(a - b for a, b in pairwise(times)) <= 20
    assert all(len(tensor) == 2 for entry in statistics.inputs for tensor in entry.values())
    save_statistics(statistics, tmp_path / "s.safetensors")
    loaded = load_statistics(tmp_path / "s.safetensors")
    assert all(torch.equal(a[k], b[k]) for a, b in zip(statistics.inputs, loaded.inputs, strict=True) for k in (*a, *b))
    contexts = {id(entry["context"]) for entry in statistics.inputs}
    assert len(contexts) < len(statistics.inputs), "equal conditioning is kept once"
    total = statistics
    for _ in range(9):
        total = total + statistics
    assert len(total.inputs) == AT_MOST


def test_measured_selection_keeps_what_matters(example: Example) -> None:
    with CheckpointReader(example.path) as source:
        with pytest.raises(StatisticsError, match="was not measured"):
            make_plan(source, example.statistics, QuantizeOptions(mode="v1", selection="measured"))
        names = sorted(example.statistics.layers)
        impacts = {name: 1.0 / (1 + number) for number, name in enumerate(names)}
        statistics = example.statistics.with_impacts(impacts, "v1 nearest")
        plan = make_plan(
            source, statistics, QuantizeOptions(mode="v1", keep_ratio=1 / len(names), selection="measured")
        )
        assert [layer.layer for layer in plan.kept] == names[:1]
        partial = example.statistics.with_impacts({names[0]: 1.0}, "v1 nearest")
        again = partial.with_impacts({names[1]: 0.5}, "v1 nearest")
        assert again.impacts("v1 nearest")[names[0]] == 1.0
        other = again.with_impacts({names[1]: 0.5}, "v2 nearest")
        assert other.impacts("v1 nearest") == again.impacts("v1 nearest") and names[0] not in other.impacts(
            "v2 nearest"
        )
