"""The dual monitor against an independent float64 computation over the same activations."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hswq_core.calibration import DualMonitor, Statistics, load_statistics, quantizable_layers, save_statistics
from hswq_core.calibration.session import CalibrationSession
from hswq_core.calibration.statistics import merge
from hswq_core.errors import StatisticsError
from hswq_core.fingerprint import Fingerprint


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
        self.seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for name, module in quantizable_layers(net):
            module.register_forward_hook(lambda _m, a, y, n=name: self.seen.setdefault(n, []).append((a[0], y)))

    def rows(self, name: str, conv: bool) -> torch.Tensor:
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
        x, y = recorder.rows(name, conv=name == "conv"), recorder.outputs(name)
        assert layer.input_rows == len(x)
        for found, expected in (
            (layer.importance, x.abs().mean(0)),
            (layer.second_moment, x.square().mean(0)),
            (layer.mean, x.mean(0)),
        ):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * float(x.abs().mean()))
        assert layer.output_sums[0] == y.numel()
        assert layer.sensitivity == pytest.approx(float(y.var(unbiased=False)), rel=1e-4)


@pytest.fixture(params=["cpu", "cpu in blocks", "torch", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_only_layers_that_can_be_quantized_are_measured() -> None:
    assert {name for name, _ in quantizable_layers(make_net())} == {
        "flat", "tokens", "to_q", "to_k", "to_v", "grid", "conv",
    }  # fmt: skip


def test_no_hook_is_left_behind_even_when_the_run_fails() -> None:
    net = make_net()
    with pytest.raises(RuntimeError), DualMonitor(net):
        net(torch.zeros(3, 5))
    assert all(not module._forward_hooks for module in net.modules())


@pytest.mark.usefixtures("backend")
def test_half_precision_activations_keep_their_statistics_exact() -> None:
    layer = torch.nn.Linear(64, 64).to(torch.bfloat16)
    x = (torch.randn(4096, 64) + 100).to(torch.bfloat16)
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
        rows = total.layers["0"].rows
        assert rows is not None and 100 <= len(rows) <= 200
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
    assert torch.equal(loaded.layers["conv"].rows, (statistics + statistics).layers["conv"].rows)


def fingerprint(net: torch.nn.Module) -> Fingerprint:
    layers = dict(quantizable_layers(net))
    return Fingerprint.of(
        list(layers), lambda n: float(layers[n].weight.detach().flatten()[layers[n].weight.numel() // 2])
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fingerprint_knows_a_model_in_any_type_and_no_other(dtype: torch.dtype) -> None:
    net = make_net()
    assert fingerprint(net).matches(fingerprint(make_net().to(dtype)))
    assert not fingerprint(net).matches(fingerprint(make_net(seed=1)))


def test_a_session_continues_from_its_file_and_refuses_another_model(tmp_path: Path) -> None:
    path = tmp_path / "session.safetensors"
    net, other = make_net(), make_net(seed=1)
    session = CalibrationSession.open(path, fingerprint(net))
    run = measure(net, inputs(2))
    for _ in range(2):
        session.add_run(Statistics(run.layers, 1, 4, 25, fingerprint(net)))
    reopened = CalibrationSession.open(path, fingerprint(net))
    assert (reopened.statistics.runs, reopened.statistics.samples, reopened.statistics.steps) == (2, 8, 50)
    assert reopened.statistics.digest() == session.statistics.digest()
    before = path.read_bytes()
    with pytest.raises(StatisticsError, match="another model"):
        CalibrationSession.open(path, fingerprint(other))
    assert path.read_bytes() == before
    assert not CalibrationSession.open(path, fingerprint(other), reset=True).statistics.layers


def test_a_session_opened_twice_loses_no_run(tmp_path: Path) -> None:
    path = tmp_path / "session.safetensors"
    net = make_net()
    run = Statistics(measure(net, inputs(1)).layers, 1, 1, 25, fingerprint(net))
    first = CalibrationSession.open(path, fingerprint(net))
    first.add_run(run)
    second = CalibrationSession.open(path, fingerprint(net))
    for session in (second, first, second):
        session.add_run(run)
    assert load_statistics(path).runs == 4
    path.unlink()  # what a user does who wants to begin anew
    assert CalibrationSession.open(path, fingerprint(net)).statistics.runs == 0


def test_a_failed_flush_does_not_end_the_sampling(tmp_path: Path) -> None:
    net = make_net()
    run = Statistics(measure(net, inputs(1)).layers, 1, 1, 25, fingerprint(net))
    session = CalibrationSession.open(tmp_path / "folder" / "session.safetensors", fingerprint(net))
    (tmp_path / "folder").write_text("a file where the folder should be")
    session.add_run(run)
    assert session.statistics.runs == 1
    (tmp_path / "folder").unlink()
    session.add_run(run)
    assert load_statistics(session.path).runs == 2


def test_merging_different_models_is_refused() -> None:
    a = Statistics(measure(make_net(), inputs(1)).layers, 1, 1, 1, fingerprint(make_net()))
    b = Statistics(measure(make_net(1), inputs(1)).layers, 1, 1, 1, fingerprint(make_net(1)))
    with pytest.raises(StatisticsError, match="different models"):
        merge([a, b])


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "foreign", "flipped"])
def test_damaged_statistics_give_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.safetensors"
    save_statistics(Statistics(measure(make_net(), inputs(1)).layers, 1, 1, 1), path)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "text":
        path.write_text("no statistics at all")
    elif damage == "foreign":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(data[:20] + bytes([data[20] ^ 0xFF]) + data[21:])
    with pytest.raises(StatisticsError) as caught:
        load_statistics(path)
    assert str(path) in str(caught.value) and caught.value.remedy
