"""The dual monitor against an independent float64 computation over the same activations."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hswq_core.calibration import DualMonitor, Statistics, load_statistics, quantizable_layers, save_statistics
from hswq_core.calibration.rows import tensor_of
from hswq_core.calibration.statistics import merge
from tests.core.capabilities import needs_triton
from tests.core.small_nets import Recorder, check, inputs, make_net, measure


@pytest.fixture(params=["cpu", "cpu in blocks", "torch", pytest.param("triton", marks=needs_triton)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kind of accumulator, on the CPU; Triton's kernels run in its interpreter."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    if request.param == "cpu in blocks":  # as large tensors are divided
        monkeypatch.setattr("hswq_core.calibration.accumulators.cpu._INPUT_SHARE", 50)
        monkeypatch.setattr("hswq_core.calibration.accumulators.cpu._OUTPUT_SHARE", 50)
    elif request.param == "torch":
        monkeypatch.setattr("hswq_core.calibration.accumulators.bank.Scratch", lambda: None)
    elif request.param == "triton":
        kernel = importlib.import_module("hswq_core.kernels.layer_sums")
        monkeypatch.setattr("hswq_core.backend.Operation.kernel", lambda _operation, _device: kernel)
    return request.param


@pytest.mark.usefixtures("backend")
def test_statistics_equal_float64_over_several_runs_and_after_a_merge(tmp_path: Path) -> None:
    net, twin, batch = make_net(), make_net(), inputs(8)
    plain = Recorder(twin)
    for x in batch:
        with torch.no_grad():
            twin(x)
    runs = [measure(net, batch[:3]), measure(net, batch[3:4]), measure(net, batch[4:])]
    total = merge(runs)
    check(total, plain)
    save_statistics(total, tmp_path / "s.safetensors")
    check(load_statistics(tmp_path / "s.safetensors"), plain)


def test_every_device_measures_the_same(device: torch.device) -> None:
    batch = inputs(3)
    found = measure(make_net().to(device), [x.to(device) for x in batch])
    for name, expected in measure(make_net(), batch).layers.items():
        layer = found.layers[name]
        for got, wanted in ((layer.mean, expected.mean), (layer.second_moment, expected.second_moment)):
            assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)
        assert torch.allclose(layer.importance, expected.importance, rtol=1e-4)
        assert layer.sensitivity == pytest.approx(expected.sensitivity, rel=1e-3)


def rows_of(statistics: Statistics, layer: str) -> torch.Tensor:
    rows = statistics.layers[layer].rows
    assert rows is not None
    return tensor_of(rows)


def test_only_layers_that_can_be_quantized_are_measured() -> None:
    assert {name for name, _ in quantizable_layers(make_net())} == {
        "flat", "tokens", "to_q", "to_k", "to_v", "grid", "conv", "grouped",
    }  # fmt: skip


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("spatial", [1, 3])
def test_convolutions_over_sequences_and_volumes_are_measured(spatial: int) -> None:
    kind = {1: torch.nn.Conv1d, 3: torch.nn.Conv3d}[spatial]
    net = torch.nn.Sequential(kind(6, 8, 3, padding=1), kind(8, 4, 1, groups=2))
    recorder = Recorder(net)
    batch = [torch.randn(2, 6, *[5] * spatial) + n for n in range(3)]
    check(measure(net, batch, rows=8), recorder)
    assert not any(layer.rows is not None for layer in measure(net, batch, rows=8).layers.values())


def test_no_hook_is_left_behind_even_when_the_run_fails() -> None:
    net = make_net()
    with pytest.raises(RuntimeError), DualMonitor(net):
        net(torch.zeros(3, 5))
    assert all(not module._forward_hooks for module in net.modules())


def test_half_precision_activations_keep_their_statistics_exact(backend: str) -> None:
    layer = torch.nn.Linear(64, 64).to(torch.bfloat16)
    # The interpreter takes a second for a thousand rows; these are several programs of it, the last not full.
    x = (torch.randn(300 if backend == "triton" else 4096, 64) + 100).to(torch.bfloat16)
    found = measure(torch.nn.Sequential(layer), [x] * 20).layers["0"]
    assert torch.allclose(found.mean, x.double().mean(0), rtol=1e-6)
    with torch.no_grad():
        y = layer(x).double()
    assert found.sensitivity == pytest.approx(float(y.var(unbiased=False)), rel=1e-4)


@pytest.mark.parametrize(("expected_calls", "fewest"), [(20, 200), (7, 100), (1, 100)])
def test_rows_are_a_uniform_sample_of_everything_seen(expected_calls: int, fewest: int) -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(1, 1))
    calls = [torch.arange(100.0).view(-1, 1) + 100 * call for call in range(20)]
    counts = torch.zeros(20)
    for seed in range(40):
        with torch.no_grad(), DualMonitor(layer, 200, seed=seed, expected_calls=expected_calls) as monitor:
            for x in calls:
                layer(x)
        rows = monitor.statistics().layers["0"].rows
        assert rows is not None and fewest <= len(rows) <= 200 and rows.unique().numel() == len(rows)
        counts += torch.bincount((rows.flatten() / 100).long(), minlength=20)
    expected = counts.sum() / 20
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 43.8  # 19 degrees of freedom, one in a thousand


@pytest.mark.parametrize("calls_a_step", [1, 2])
def test_later_runs_draw_their_share_and_the_sum_stays_uniform(calls_a_step: int) -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(1, 1))
    counts, drawn = torch.zeros(8), 0
    for repeat in range(60):
        total = Statistics(layers={})
        for run in range(8):
            earlier = total if run else None
            with torch.no_grad(), DualMonitor(layer, 200, 100 * repeat + run, 5, earlier) as monitor:
                for _ in range(5 * calls_a_step):
                    layer(torch.zeros(100 + repeat, 1))  # merging is seeded by counts, so these must vary
            found = replace(monitor.statistics(), runs=1)
            rows = found.layers["0"].rows
            assert rows is not None
            drawn += len(rows)
            rows[:] = run
            total = total + found
        rows = rows_of(total, "0")
        assert 100 <= len(rows) <= 200
        counts += torch.bincount(rows.flatten().long(), minlength=8)
    expected = counts.sum() / 8
    assert float(((counts - expected) ** 2 / expected).sum()) < 24.3  # 7 degrees of freedom, one in a thousand
    assert drawn < 0.6 * 60 * 8 * 200


class Wandering(torch.nn.Module):
    """Two layers that share their input, except in some calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, how: str) -> torch.Tensor:
        y = self.first(x) if how != "second alone" else 0
        other = x * 2 if how == "apart" else x
        return y if how == "first alone" else y + self.second(other)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("odd", ["apart", "first alone", "second alone"])
def test_layers_that_stop_sharing_their_input_keep_exact_sums(odd: str) -> None:
    net, generator = Wandering(), torch.Generator().manual_seed(0)
    seen: dict[str, list[torch.Tensor]] = {"first": [], "second": []}
    with torch.no_grad(), DualMonitor(net, 50) as monitor:
        for name, rows in seen.items():
            getattr(net, name).register_forward_pre_hook(lambda _m, args, rows=rows: rows.append(args[0].double()))
        for how in ("together", "together", odd, "together", odd):
            net(torch.randn(10, 6, generator=generator), how)
    found = monitor.statistics()
    for name, rows in seen.items():
        x, layer = torch.cat(rows), found.layers[name]
        assert layer.input_rows == len(x)
        assert torch.allclose(layer.importance, x.abs().mean(0), rtol=1e-6)
        assert torch.allclose(layer.second_moment, x.square().mean(0), rtol=1e-6)
        assert layer.rows is not None and (layer.rows[:, None] == x.half()[None]).all(-1).any(1).all()


@pytest.mark.usefixtures("backend")
def test_a_convolutions_patches_are_what_its_weight_is_multiplied_with() -> None:
    conv = torch.nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 1), dilation=(1, 2), bias=False)
    x = torch.randn(2, 3, 7, 6).half().float()
    with torch.no_grad(), DualMonitor(torch.nn.Sequential(conv), 1000) as monitor:
        y = conv(x)
    rows = monitor.statistics().layers["0"].rows
    assert rows is not None and rows.shape == (y.numel() // 5, 18)
    products = rows.float() @ conv.weight.detach().flatten(1).t()
    expected = y.movedim(1, -1).reshape(-1, 5)
    distance = torch.cdist(products.double(), expected.double())
    assert distance.min(0).values.max() < 1e-4 and distance.min(1).values.max() < 1e-4


@pytest.mark.usefixtures("backend")
def test_few_rows_are_all_kept_and_shared_inputs_are_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    statistics = measure(make_net(), inputs(1), rows=1000)
    assert statistics.layers["flat"].rows is not None and len(statistics.layers["flat"].rows) == 72
    assert statistics.layers["to_q"].rows is statistics.layers["to_v"].rows
    save_statistics(statistics + statistics, path)
    loaded = load_statistics(path)
    assert loaded.layers["to_q"].rows is loaded.layers["to_k"].rows
    assert torch.equal(rows_of(loaded, "conv"), rows_of(statistics + statistics, "conv"))
