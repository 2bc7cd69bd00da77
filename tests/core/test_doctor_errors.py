"""The error of other tools' files against the original: of weights, of layers' outputs, and of the model, predicted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hswq_core import diagnose, load_statistics
from hswq_core.calibration import DualMonitor, Statistics, quantizable_layers, save_statistics
from hswq_core.doctor.contents import opened
from hswq_core.errors import CheckpointError, StatisticsError
from hswq_core.formats import FORMATS
from hswq_core.quantize_layer import quantize_layer
from hswq_core.rounding.weight import scale_like
from hswq_core.sensitivity.exact import ImpactMeter
from tests.core import doctor_files as files
from tests.core import doctor_peers as peers
from tests.core.doctor_cases import CASES
from tests.core.small_nets import fingerprint
from tests.core.test_cli import hswq

ERRORS = {
    "fp8": (5e-4, 1e-3), "v2": (3e-4, 1e-3), "scaled_fp8": (5e-4, 4e-3), "fp8_weight_scale": (5e-4, 1e-3),
    "float8_e4m3fn": (5e-4, 1e-3), "mxfp8": (5e-4, 1e-3), "torchao_float8": (5e-4, 1e-3), "fp8_e5m2": (2e-3, 4e-3),
    "int8": (3e-5, 7e-5), "int8_tensorwise": (3e-5, 7e-5), "bnb_int8": (3e-5, 7e-5), "quanto_int8": (3e-5, 7e-5),
    "nvfp4": (7e-3, 1.1e-2), "hswq_int4": (7e-3, 1.3e-2), "bnb_nf4": (7e-3, 1e-2), "quanto_int4": (8e-3, 1.5e-2),
    "convrot_w4a4": (1e-2, 2e-2), "asym_w4a8_int8": (6e-3, 1e-2),
}  # fmt: skip
"""Relative squared error of Gaussian weights by the kind: a layer that is decoded wrongly has one near 1, or above."""
NOT_DECODED = {"svdquant_int4", "svdquant_nvfp4", "gptq", "unknown"}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_is_decoded(name: str, tmp_path: Path) -> None:
    case, original = CASES[name], files.save(tmp_path, files.original(), name="reference")
    found = diagnose(case.make(tmp_path), original=original).comparison
    assert found is not None and not found.missing
    kinds = set(case.groups)
    layers = sum(count for count, _ in case.groups.values())
    if kinds & NOT_DECODED:
        assert len(found.undecoded) == layers and not found.layers
        return
    assert not found.undecoded and len(found.layers) == layers and found.unchanged == 9 - layers
    for layer in found.layers:
        low, high = ERRORS[next(iter(kinds))]
        assert low < layer.weight < high and layer.output is None


def test_kept_layers_that_another_tool_has_rounded_count(tmp_path: Path) -> None:
    original = files.save(tmp_path, files.original(), name="original")
    cast = {key: tensor.to(files.FP8).half() for key, tensor in files.original().items()}
    found = diagnose(files.save(tmp_path, cast), original=original).comparison
    assert found is not None and len(found.layers) == 9 and not found.unchanged
    assert found.worst[0].weight == max(layer.weight for layer in found.layers)


class Net(torch.nn.Module):
    """Residual blocks of two Linear layers, wide enough for groups of 64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = torch.nn.Linear(64, 64)
        self.up = torch.nn.ModuleList([torch.nn.Linear(64, 256) for _ in range(4)])
        self.down = torch.nn.ModuleList([torch.nn.Linear(256, 64) for _ in range(4)])
        self.last = torch.nn.Linear(64, 64)
        for place, layer in enumerate(self.down):  # some matter far more than others
            layer.weight.data *= 4.0 ** (place - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        for up, down in zip(self.up, self.down, strict=True):
            y = y + down(torch.nn.functional.gelu(up(torch.nn.functional.layer_norm(y, (64,)))))
        return self.last(y)


def inputs(count: int, seed: int) -> list[torch.Tensor]:
    """Channels of different sizes, as after a norm."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(64, 64, generator=random) * torch.linspace(0.2, 3, 64) for _ in range(count)]


def measured(net: Net) -> Statistics:
    """Statistics with the impact of every layer in V2, rounded to nearest, one layer changed at a time."""
    with torch.no_grad(), DualMonitor(net, 512) as monitor:
        for x in inputs(8, 1):
            net(x)
    statistics = replace(monitor.statistics(), runs=1, samples=8, steps=8, fingerprint=fingerprint(net))
    meter, form = ImpactMeter(net, statistics.inputs, torch.device("cpu"), {}), FORMATS["v2"].form
    impacts = {}
    for name, layer in quantizable_layers(net):
        rounded = quantize_layer(layer.weight.data, statistics.layers[name], form, "nearest")
        weight = form.grid.dequantize(rounded.codes, scale_like(layer.weight.data, rounded.scale))
        impacts[name] = meter.impact(layer, weight - layer.weight.data)
    return statistics.with_impacts(impacts, "v2 nearest")


def true_error(net: Net, path: Path) -> float:
    """Of the model's output on inputs that were not calibrated with, with all weights as the tool's file has them."""
    with torch.no_grad(), opened(path) as contents:
        expected = [net(x) for x in inputs(8, 2)]
        for name, layer in quantizable_layers(net):
            stored = contents.layers[files.UNET + name]
            assert stored.decode is not None
            layer.weight.data = stored.decode()
        found = [net(x) for x in inputs(8, 2)]
    each = [(b - a).square().sum() / a.square().sum() for a, b in zip(expected, found, strict=True)]
    return float(sum(each)) / len(each)


PEERS = {
    "bitsandbytes NF4": peers.bnb_nf4,
    "ComfyUI NVFP4": files.nvfp4,
    "ComfyUI W4A8": files.w4a8,
    "optimum-quanto INT8": peers.quanto,
    "torchao FP8": peers.torchao,
}


@pytest.mark.parametrize("peer", PEERS)
def test_the_models_error_is_predicted_without_running_it(peer: str, tmp_path: Path) -> None:
    net = Net()
    tensors = {files.UNET + name: tensor.detach() for name, tensor in net.state_dict().items()}
    original, statistics = files.save(tmp_path, tensors, name="original"), tmp_path / "statistics.safetensors"
    save_statistics(measured(net), statistics)
    path = files.save(tmp_path, files.each(PEERS[peer], model=tensors))
    found = diagnose(path, original=original, statistics=load_statistics(statistics)).comparison
    assert found is not None and found.predicted is not None and found.purposes == ("v2 nearest",)
    error = true_error(net, path)
    assert 1 / 1.5 < found.predicted / error < 1.5
    assert found.worst[0].impact == max(each.impact or 0 for each in found.layers) > 0.1 * found.predicted
    printed = hswq("doctor", path, "--original", original, "--stats", statistics).stdout
    assert f"of the model's output {found.predicted:.2e}, predicted from impacts for v2 nearest" in printed


def test_statistics_of_another_model_are_refused(tmp_path: Path) -> None:
    net, other = Net(), Net()
    other.first.weight.data *= 2
    tensors = {files.UNET + name: tensor.detach() for name, tensor in other.state_dict().items()}
    path = files.save(tmp_path, tensors)
    with pytest.raises(StatisticsError, match="another model"):
        diagnose(path, original=path, statistics=measured(net))


def test_an_original_with_other_names_is_refused(tmp_path: Path) -> None:
    path = files.save(tmp_path, files.each(files.plain))
    other = files.save(tmp_path, {"mid.weight": torch.ones(4, 4)}, name="other")
    with pytest.raises(CheckpointError, match="no layer of file"):
        diagnose(path, original=other)
