"""Small networks to calibrate, and their statistics computed the obvious way."""

from collections.abc import Sequence

import pytest
import torch

from hswq_core.calibration import DualMonitor, Statistics, quantizable_layers
from hswq_core.fingerprint import Fingerprint


def fingerprint(net: torch.nn.Module) -> Fingerprint:
    layers = dict(quantizable_layers(net))

    def read(name: str, positions: Sequence[float]) -> list[float]:
        weight = layers[name].weight.detach().flatten()
        return [float(weight[int(position * weight.numel())]) for position in positions]

    return Fingerprint.of(list(layers), read)


def calibrated(net: torch.nn.Module) -> Statistics:
    """Of two calls with 256 rows of 64 numbers, sampled whole."""
    with torch.no_grad(), DualMonitor(net, 256, expected_calls=2) as monitor:
        for _ in range(2):
            net(torch.randn(256, 64).half())
    return Statistics(monitor.statistics().layers, runs=1, samples=2, steps=2, fingerprint=fingerprint(net))


class Net(torch.nn.Module):
    """Linear layers on 2-, 3- and 4-dimensional inputs, convolutions, and three layers that share one input."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = torch.nn.Linear(6, 8)
        self.tokens = torch.nn.Linear(8, 12)
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(12, 5) for _ in range(3))
        self.grid = torch.nn.Linear(5, 4)
        self.conv = torch.nn.Conv2d(4, 7, 3, stride=2, padding=1)
        self.norm = torch.nn.GroupNorm(1, 7)
        self.grouped = torch.nn.Conv2d(7, 7, 3, groups=7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.flat(x)
        x = self.tokens(x.view(2, -1, 8))
        x = self.to_q(x) + self.to_k(x) * self.to_v(x)
        x = self.grid(x.view(2, 6, 6, 5))
        return self.grouped(self.norm(self.conv(x.movedim(-1, 1))))


def make_net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def inputs(count: int, drift: float = 0.5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(72, 6, generator=generator) * (1 + drift * i) + drift * i for i in range(count)]


class Recorder:
    """Keeps every activation, to compute the statistics the obvious way."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.convolutions: dict[str, bool] = {}
        self.seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for name, module in quantizable_layers(net):
            module.register_forward_hook(lambda _m, a, y, n=name: self.seen.setdefault(n, []).append((a[0], y)))
            self.convolutions[name] = isinstance(module, torch.nn.modules.conv._ConvNd)

    def rows(self, name: str) -> torch.Tensor:
        conv = self.convolutions[name]
        return torch.cat([(x.movedim(1, -1) if conv else x).flatten(0, -2) for x, _ in self.seen[name]]).double()

    def outputs(self, name: str) -> torch.Tensor:
        return torch.cat([y.flatten() for _, y in self.seen[name]]).double()


def measure(net: torch.nn.Module, batch: list[torch.Tensor], rows: int = 0) -> Statistics:
    with torch.no_grad(), DualMonitor(net, rows) as monitor:
        for x in batch:
            net(x)
    return monitor.statistics()


def check(statistics: Statistics, recorder: Recorder) -> None:
    assert set(statistics.layers) == set(recorder.seen)
    for name, layer in statistics.layers.items():
        x, y = recorder.rows(name), recorder.outputs(name)
        assert layer.input_rows == len(x)
        for found, expected in (
            (layer.importance, x.abs().mean(0)),
            (layer.second_moment, x.square().mean(0)),
            (layer.mean, x.mean(0)),
        ):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * float(x.abs().mean()))
        assert layer.output_sums[0] == y.numel()
        assert layer.sensitivity == pytest.approx(float(y.var(unbiased=False)), rel=1e-4)
