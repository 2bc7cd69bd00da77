"""Layers that are computed past their modules are found, and runs that differ for good reasons are not taken for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear

from hswq_core.calibration import DualMonitor, Statistics, load_statistics, quantizable_layers, save_statistics
from hswq_core.calibration.coverage import coverage_warnings
from hswq_core.errors import StatisticsError
from hswq_core.sensitivity.exact import ImpactMeter
from hswq_core.sensitivity.gradient import GradientMeter


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(8, 8) for _ in range(3))
        self.to_out = torch.nn.ModuleList([torch.nn.Linear(8, 8), torch.nn.Identity()])
        self.k_image = torch.nn.Linear(4, 8)

    def forward(self, x: torch.Tensor, context: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
        y = self.to_q(x) + (self.to_k(context) * self.to_v(context)).mean(1, keepdim=True)
        if image is not None:
            y = y + self.k_image(image).mean(1, keepdim=True)
        return self.to_out[0](y)


class FeedForward(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.ModuleList([torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8)])
        self.fused = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.net[1](self.net[0](x))
        last = self.net[2]
        return linear(hidden, last.weight, last.bias) if self.fused else last(hidden)  # type: ignore[arg-type]


class Block(torch.nn.Module):
    """With a modulation of its own, as many blocks have, and experts of whom each image goes to one."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(1, 8))
        self.attention, self.ff = Attention(), FeedForward()
        self.experts = torch.nn.ModuleList(FeedForward() for _ in range(2))

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, image: torch.Tensor | None
    ) -> torch.Tensor:
        x = x + self.modulation(t[:, None])[:, None]
        x = x + self.attention(x, context, image)
        number = int(float(x.detach().sum()) > 0)
        return x + self.ff(x) + self.experts[number](x[:, : 1 + number])[:, :1]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.pose = torch.nn.Linear(4, 8), torch.nn.Linear(4, 8)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(3))
        self.guidance = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Linear(8, 8))

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, image: torch.Tensor | None = None,
        pose: bool = False, guidance: bool = False, skip: tuple[int, ...] = (),
    ) -> torch.Tensor:  # fmt: skip
        y = self.patch(x) + (self.pose(x) if pose else 0)
        y = y + (self.guidance(t[:, None])[:, None] if guidance else 0)
        for number, block in enumerate(self.blocks):
            y = y if number in skip else block(y, t / 1000, context, image)
        return y


Calls = list[dict[str, object]]


def a_run(net: Model, calls: Calls, earlier: Statistics | None = None, before: Callable[[int], None] | None = None):  # type: ignore[no-untyped-def]
    with torch.no_grad(), DualMonitor(net, earlier=earlier) as monitor:
        for number, options in enumerate(calls):
            if before is not None:
                before(number)
            given = {"batch": 2, "pixels": 16, "tokens": 5, **options}
            batch, pixels, tokens = (int(str(given.pop(key))) for key in ("batch", "pixels", "tokens"))
            net(torch.randn(batch, pixels, 4), torch.full((batch,), 9.0), torch.randn(batch, tokens, 8), **given)
    return replace(monitor.statistics(), runs=1, samples=1), monitor.bypassed()


IMAGE = {"image": torch.ones(2, 7, 4)}
EVERYTHING: Calls = [{**IMAGE, "pose": True, "guidance": True}] * 6
LEGAL: dict[str, Calls] = {
    "another size and length": [{"pixels": 64, "tokens": 9, **IMAGE, "pose": True, "guidance": True}] * 6,
    "as many tokens as pixels": [{"pixels": 5}] * 6,
    "another batch, cond and uncond apart": [{"batch": 1}] * 12,
    "no image, no pose, no guidance": [{}] * 6,
    "an image for the prompt alone": [IMAGE, {}] * 6,
    "a cache of the inner blocks": [{"skip": () if n % 3 == 0 else (1, 2)} for n in range(6)],
    "a block left out for guidance": [{}, {"skip": (1,)}] * 3,
    "a block left out in all": [{"skip": (1,)}] * 6,
}


@pytest.mark.parametrize("before", ["nothing", "everything", "the plainest"])
@pytest.mark.parametrize("legal", LEGAL)
def test_what_runs_may_differ_in_is_no_bypass(legal: str, before: str) -> None:
    net = Model()
    calls: Calls = EVERYTHING if before == "everything" else [{}] * 4
    earlier = None if before == "nothing" else a_run(net, calls)[0]
    assert a_run(net, LEGAL[legal], earlier)[1] == ""


@pytest.mark.parametrize(("first", "every"), [(True, 2), (False, 1), (False, 2)])
@pytest.mark.parametrize("where", ["blocks.1.ff", "blocks.2.experts.1"])
def test_a_layer_that_is_computed_past_its_module_is_found(where: str, first: bool, every: int) -> None:
    net = Model()
    if "experts" in where:
        net.blocks[2].modulation[1].bias.data += 100  # so that the images go to it
    earlier = None if first else a_run(net, EVERYTHING)[0]
    layer = net.get_submodule(where)

    def fuse(number: int) -> None:
        layer.fused = number % every == 0  # type: ignore[assignment]

    assert a_run(net, [{"pixels": 64}] * 6, earlier, fuse)[1] == f"{where}.net.2"


def test_layers_that_never_ran_are_told_by_their_share_of_the_weights(tmp_path: Path) -> None:
    net, path = Model(), tmp_path / "s.safetensors"
    net.blocks[0].ff.fused = True
    statistics = a_run(net, EVERYTHING)[0]
    sizes = {name: layer.weight.numel() for name, layer in quantizable_layers(net)}  # type: ignore[operator,union-attr]
    never = sizes.keys() - statistics.layers.keys()
    assert "blocks.0.ff.net.2" in never
    save_statistics(statistics + statistics, path)
    (warning,) = [each for each in coverage_warnings(load_statistics(path)) if "never ran" in each]
    share = 100 * sum(sizes[name] for name in never) / sum(sizes.values())
    assert warning.startswith(f"{len(never)} layers with {share:.2g} % of the weights never ran")
    # A run that calls them takes them off.
    net.blocks[0].ff.fused = False
    assert "blocks.0.ff.net.2" not in (statistics + a_run(net, EVERYTHING)[0]).never_ran


@pytest.mark.parametrize("method", ["exact", "gradient"])
def test_no_impact_is_measured_of_a_layer_that_is_not_called(method: str) -> None:
    net = Model().requires_grad_(False)
    net.blocks[1].ff.fused = True
    inputs = [{"0": torch.randn(2, 16, 4), "1": torch.full((2,), 9.0), "2": torch.randn(2, 5, 8)}] * 2
    cpu, layers = torch.device("cpu"), {n: e for n, e in quantizable_layers(net) if n.startswith("blocks.1.ff")}
    with pytest.raises(StatisticsError, match="was not called"):
        if method == "exact":
            ImpactMeter(net, inputs, cpu, {}).impact(layers["blocks.1.ff.net.2"], torch.ones(8, 16))
        else:
            GradientMeter(net, inputs, cpu, {}, vectors=4).impacts(layers, dict.fromkeys(layers, lambda weight: weight))


class ByKeyword(torch.nn.Module):
    def __init__(self, *, by_keyword: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.by_keyword, self.layer, self.conv = by_keyword, torch.nn.Linear(4, 4), torch.nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.by_keyword:
            return self.conv(input=self.layer(input=x))
        return self.conv(self.layer(x))


def test_layers_that_are_called_by_keyword_are_measured_alike() -> None:
    found, impacts = [], []
    for by_keyword in (False, True):
        net = ByKeyword(by_keyword=by_keyword).requires_grad_(False)
        inputs = [{"0": torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1)), "1": torch.ones(2)}]
        with torch.no_grad(), DualMonitor(net, 8) as monitor:
            net(inputs[0]["0"], inputs[0]["1"])
        found.append(monitor.statistics().layers)
        cpu, layers = torch.device("cpu"), dict(quantizable_layers(net))
        exact = ImpactMeter(net, inputs, cpu, {})
        changes = {name: (lambda weight: weight * 0.01) for name in layers}
        gradient = GradientMeter(net, inputs, cpu, {}, vectors=8).impacts(layers, changes)
        impacts.append([exact.impact(e, e.weight * 0.01) for e in layers.values()] + list(gradient.values()))  # type: ignore[operator,union-attr,arg-type]
    assert all(torch.equal(found[0][name].input_sums, layer.input_sums) for name, layer in found[1].items())
    assert found[0].keys() == found[1].keys() and impacts[0] == pytest.approx(impacts[1])
