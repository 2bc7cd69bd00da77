"""Measured sensitivity: one layer at a time and by gradients agree, and what is measured decides what is kept."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hswq_core.calibration import DualMonitor, Statistics, load_statistics, quantizable_layers, save_statistics
from hswq_core.calibration.arguments import joined, tensors_of
from hswq_core.calibration.model_inputs import INPUTS_PER_RUN, MAX_INPUTS
from hswq_core.errors import StatisticsError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.options import QuantizeOptions
from hswq_core.planning import make_plan, match_source
from hswq_core.sensitivity import gradient
from hswq_core.sensitivity.differentiable import NotDifferentiableError
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
    assert len(times) == INPUTS_PER_RUN and times == sorted(times, reverse=True)
    assert times[0] > 980 and times[-1] < 930 and max(a - b for a, b in pairwise(times)) <= 20
    assert all(len(tensor) == 4 for entry in statistics.inputs for tensor in tensors_of(dict(entry)))
    save_statistics(statistics, tmp_path / "s.safetensors")
    loaded = load_statistics(tmp_path / "s.safetensors")
    assert len(loaded.inputs) == len(statistics.inputs)
    for a, b in zip(statistics.inputs, loaded.inputs, strict=True):
        assert joined([dict(a), dict(b)], batch=-1, parts=1) is not None, "equal, or it raises"
    contexts = {id(entry["context"]) for entry in statistics.inputs}
    assert len(contexts) < len(statistics.inputs), "equal conditioning is kept once"
    total = statistics
    for _ in range(9):
        total = total + statistics
    assert len(total.inputs) == MAX_INPUTS


def test_measured_selection_keeps_what_matters(example: Example) -> None:
    with CheckpointReader(example.path) as source:
        with pytest.raises(StatisticsError, match="was not measured"):
            make_plan(match_source(source, example.statistics), QuantizeOptions(mode="v1", selection="measured"))
        names = sorted(example.statistics.layers)
        impacts = {name: 1.0 / (1 + number) for number, name in enumerate(names)}
        statistics = example.statistics.with_impacts(impacts, "v1 nearest")
        plan = make_plan(
            match_source(source, statistics),
            QuantizeOptions(mode="v1", keep_ratio=1 / len(names), selection="measured"),
        )
        assert [layer.layer for layer in plan.kept] == names[:1]
        partial = example.statistics.with_impacts({names[0]: 1.0}, "v1 nearest")
        again = partial.with_impacts({names[1]: 0.5}, "v1 nearest")
        assert again.impacts("v1 nearest")[names[0]] == 1.0
        other = again.with_impacts({names[1]: 0.5}, "v2 nearest")
        assert other.impacts("v1 nearest") == again.impacts("v1 nearest") and names[0] not in other.impacts(
            "v2 nearest"
        )


class Blocks(torch.nn.Module):
    """Residual blocks with norms, a convolution, a layer that is called twice and one without a gradient."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(8)
            self.up, self.down = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.down(torch.nn.functional.silu(self.up(self.norm(x))))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.blocks = torch.nn.ModuleList(self.Block() for _ in range(3))
        self.time, self.twice, self.idle = torch.nn.Linear(1, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).flatten(2).transpose(1, 2) + self.time(t[:, None] / 1000)[:, None]
        for block in self.blocks:
            y = block(y)
        self.idle(y)
        return self.twice(torch.tanh(self.twice(y)))


def blocks(*, inference: bool) -> tuple[Blocks, list[dict[str, torch.Tensor]]]:
    with torch.inference_mode(inference):
        net = Blocks()
        inputs = [{"0": torch.randn(2, 4, 8, 8), "1": torch.full((2,), 100.0 * n)} for n in range(6)]
    return net.requires_grad_(False), inputs


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_gradients_give_the_impacts_of_one_layer_at_a_time(
    monkeypatch: pytest.MonkeyPatch, inference: bool, recompute: bool
) -> None:
    monkeypatch.setattr(gradient, "RECOMPUTE_ABOVE", 0 if recompute else 1 << 40)
    net, inputs = blocks(inference=inference)
    before = {name: (module.__dict__.get("forward"), dict(module._parameters)) for name, module in net.named_modules()}
    layers = dict(quantizable_layers(net))
    changes = {
        name: torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(n)) * 1e-3
        for n, (name, layer) in enumerate(layers.items())
    }
    meter = gradient.GradientMeter(net, inputs, torch.device("cpu"), {}, vectors=1000)
    found = meter.impacts(layers, {name: lambda _weight, d=change: d for name, change in changes.items()})
    exact = ImpactMeter(net, inputs, torch.device("cpu"), {})
    for name, layer in layers.items():
        expected = exact.impact(layer, changes[name])
        assert found[name] == pytest.approx(expected, rel=0.15, abs=1e-14), name
    assert found["idle"] == 0 and len(found) == 10
    # The model is as it was, to the object.
    for name, module in net.named_modules():
        forward, parameters = before[name]
        assert module.__dict__.get("forward") is forward
        assert all(module._parameters[key] is parameters[key] for key in parameters)


def test_the_random_vectors_are_not_the_noise_of_a_picture() -> None:
    class Passes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(32, 32, bias=False)
            self.layer.weight = torch.nn.Parameter(torch.eye(32), requires_grad=False)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    net = Passes()
    # As ComfyUI makes the noise of the picture with seed 0.
    noise = torch.randn((2, 4, 32, 32), generator=torch.manual_seed(0))
    meter = gradient.GradientMeter(net, [{"0": noise, "1": torch.ones(2)}], torch.device("cpu"), {}, vectors=64)
    found = meter.impacts({"layer": net.layer}, {"layer": lambda weight: weight * 0.01})
    assert found["layer"] == pytest.approx(1e-4, rel=0.5)


def test_what_has_no_backward_pass_is_said() -> None:
    class Rounds(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.layer(x).argmax(-1, keepdim=True).float()

    net = Rounds()
    inputs = [{"0": torch.randn(2, 4), "1": torch.ones(2)}]
    meter = gradient.GradientMeter(net, inputs, torch.device("cpu"), {})
    with pytest.raises(NotDifferentiableError, match="grad"):
        meter.impacts({"layer": net.layer}, {"layer": lambda weight: weight * 0})


@pytest.mark.parametrize("recompute", [False, True])
def test_models_that_change_tensors_in_place_have_gradients(monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    class InPlace(Blocks.Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.tanh(self.up(x.mul_(2)))
            x += self.down(y)
            return x.addcmul_(x, x, value=0.1)

    monkeypatch.setattr(gradient, "RECOMPUTE_ABOVE", 0 if recompute else 1 << 40)
    net, inputs = blocks(inference=False)
    net.blocks[1] = InPlace()
    layers = dict(quantizable_layers(net))
    meter = gradient.GradientMeter(net, inputs, torch.device("cpu"), {}, vectors=1000)
    found = meter.impacts(layers, dict.fromkeys(layers, lambda weight: weight * 0.01))
    exact = ImpactMeter(net, inputs, torch.device("cpu"), {})
    for name, layer in layers.items():
        assert found[name] == pytest.approx(exact.impact(layer, layer.weight * 0.01), rel=0.15, abs=1e-14), name


def test_a_right_backward_pass_is_never_suspected_by_chance() -> None:
    net, inputs = blocks(inference=False)
    layers = dict(quantizable_layers(net))
    changes: dict[str, gradient.Change] = dict.fromkeys(layers, lambda weight: weight * 0.01)
    for seed in range(40):
        meter = gradient.GradientMeter(net, inputs[:1], torch.device("cpu"), {}, vectors=1, seed=seed)
        assert sum(meter.impacts(layers, changes).values()) > 0


@pytest.mark.parametrize("fault", ["cut", "branch", "wrong", "overflow"])
def test_a_wrong_backward_pass_is_found_out(fault: str) -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * (float("inf") if fault == "overflow" else 10)

    class Faulty(Blocks.Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if fault == "branch":  # one layer of ten has no gradient, and all others have theirs
                return x + self.down(torch.nn.functional.silu(self.up(self.norm(x)).detach()))
            y = x.detach() if fault == "cut" else Doubled.apply(x)
            return super().forward(y)  # type: ignore[arg-type]

    net, inputs = blocks(inference=False)
    net.blocks[2] = Faulty()
    layers = dict(quantizable_layers(net))
    meter = gradient.GradientMeter(net, inputs, torch.device("cpu"), {})
    with pytest.raises(NotDifferentiableError, match="cut off" if fault in ("cut", "branch") else "times the effect"):
        meter.impacts(layers, dict.fromkeys(layers, lambda weight: weight * 0.01))
