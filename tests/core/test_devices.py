"""Devices that lack types and operations: what is done instead gives the same numbers.

They are emulated (``tests/lesser_device``). ``apple`` lacks FP8, float64, random generators and integer products;
``intel`` has FP8, and lacks float64 and generators.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hswq_core import quantize
from hswq_core.calibration import DualMonitor, quantizable_layers
from hswq_core.calibration.positions import PositionSampler
from hswq_core.calibration.statistics import LayerStatistics
from hswq_core.devices import has_generator, holds, sent, wide
from hswq_core.formats import FORMATS
from hswq_core.grids import E2M1, E4M3, INT8, Grid
from hswq_core.inference import fp8_bytes, int8_linear
from hswq_core.inference.dequantize import dequantize
from hswq_core.inference.fp8_bytes import numbers_of
from hswq_core.quantize_layer import quantize_layer
from hswq_core.rounding.where import rounding_device
from hswq_core.sensitivity.gradient import GradientMeter
from hswq_core.sums import WideSum
from tests.core.conftest import Example
from tests.core.small_nets import inputs, make_net
from tests.core.test_measured_sensitivity import blocks
from tests.lesser_device import device as lesser

KINDS = (torch.float8_e4m3fn, torch.float8_e5m2)
CACHES = (holds, has_generator, rounding_device, int8_linear.int8_problem, fp8_bytes._table)


@pytest.fixture(params=["apple", "intel"])
def apple_or_intel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    types = set(lesser.FLOAT64) if request.param == "intel" else {*lesser.FP8, *lesser.FLOAT64}
    monkeypatch.setattr(lesser, "lacking", types)
    yield from _device()


@pytest.fixture
def apple() -> Iterator[torch.device]:
    yield from _device()


def _device() -> Iterator[torch.device]:
    for cache in CACHES:
        cache.cache_clear()
    with lesser.everywhere() as device:
        yield device
    for cache in CACHES:
        cache.cache_clear()


def test_the_device_lacks_what_it_is_to_lack(apple: torch.device) -> None:
    host = torch.ones(32, 32)
    there = host.to(apple)
    for kind in KINDS:
        with pytest.raises(TypeError, match="Trying to convert Float8"):
            host.to(kind).to(apple)
        with pytest.raises(TypeError, match="Trying to convert Float8"):
            there.copy_(host.to(kind))
        with pytest.raises(TypeError, match="Trying to convert Float8"):
            there.to(torch.uint8).view(kind)
    with pytest.raises(TypeError, match="float64"):
        there.double()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(3, dtype=torch.float64, device=apple)
    with pytest.raises(NotImplementedError):
        torch._int_mm(there.to(torch.int8), there.to(torch.int8))
    with pytest.raises(RuntimeError):
        torch.Generator(apple)
    with pytest.raises(RuntimeError, match="same device"):
        _ = there + host
    assert there.device == apple and there.cpu().device.type == "cpu" and (there @ there).device == apple
    assert not holds(torch.float64, apple) and not has_generator(apple)
    assert not any(holds(kind, apple) for kind in KINDS) and holds(torch.float16, apple)
    assert all(holds(kind, torch.device("cpu")) for kind in (*KINDS, torch.float64))
    assert int8_linear.int8_problem(apple) is not None


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_bytes_stand_for_the_numbers_of_their_type(apple: torch.device, kind: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(16, 16)
    numbers = numbers_of(codes.to(apple), kind)
    assert numbers.device == apple
    torch.testing.assert_close(numbers.cpu().float(), codes.view(kind).float(), rtol=0, atol=0, equal_nan=True)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for scale in (torch.tensor(0.0123), torch.linspace(1e-6, 3.0, 16)[:, None]):
            found = dequantize(numbers_of(codes.to(apple), kind), scale.to(apple), dtype).cpu()
            expected = dequantize(codes.view(kind), scale, dtype)
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("grid", [E4M3, E2M1, INT8], ids=lambda grid: grid.name)
def test_codes_are_rounded_as_by_a_cast(apple: torch.device, grid: Grid) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    for values in (every.view(torch.float16), every.view(torch.bfloat16), torch.randn(1 << 16) * 50):
        values = values[values.isfinite()]
        for scale in (1.0, 0.37):
            found = grid.stored(grid.quantize(values.to(apple), scale).cpu())
            assert torch.equal(found.view(torch.uint8), grid.quantize(values, scale).view(torch.uint8))


def test_sums_stay_exact_over_thousands_of_calls(apple: torch.device) -> None:
    """Each call adds a large mean and a small variance, whose sums in float32 alone drift away."""
    generator = torch.Generator().manual_seed(0)
    total, exact, narrow = WideSum((2, 64), apple), torch.zeros(2, 64, dtype=torch.float64), torch.zeros(2, 64)
    for _ in range(20_000):
        mean = 1000 + torch.randn(64, generator=generator) * 1e-2
        values = torch.stack([mean, mean.square()])
        total.add(values.to(apple))
        exact += values
        narrow += values
    assert float((total.double() / exact - 1).abs().max()) < 1e-12
    assert float((narrow / exact - 1).abs().max()) > 1e-5, "the sum needs no help, and shows nothing"
    total.copy(slice(0, 8), slice(8, 16))
    assert torch.equal(total.double()[:, 8:16], total.double()[:, :8])
    for _ in range(2):  # what is taken away again leaves nothing
        total.add(-total.float())
    assert float(total.double().abs().max()) < 1e-6


def test_calibration_measures_the_same(apple_or_intel: torch.device) -> None:
    def measured(device: torch.device) -> dict[str, LayerStatistics]:
        net = make_net().to(device)
        with torch.no_grad(), DualMonitor(net, 64, expected_calls=40) as monitor:
            for batch in inputs(40):
                net((batch + 3).to(device))
        return dict(monitor.statistics().layers)

    there, here = measured(apple_or_intel), measured(torch.device("cpu"))
    assert there.keys() == here.keys()
    for name, layer in here.items():
        for found, expected in (
            (there[name].importance, layer.importance),
            (there[name].second_moment, layer.second_moment),
            (there[name].output_sums, layer.output_sums),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        if layer.rows is not None:
            assert isinstance(layer.rows, torch.Tensor)
            torch.testing.assert_close(there[name].rows, layer.rows, rtol=1e-3, atol=1e-4)


def test_positions_are_drawn_uniformly_where_the_device_draws_none(apple: torch.device) -> None:
    sampler, seen = PositionSampler(3), torch.zeros(50)
    for _ in range(2000):
        sampler.renew()
        picked = sampler.pick(10, 50, apple)
        assert picked.device == apple and len(picked.unique()) == 10
        seen += torch.zeros(50).index_add_(0, picked.cpu(), torch.ones(10))
    # 2000 draws with probability 0.2: a standard deviation of 17.9.
    assert float((seen - 400).abs().max()) < 5 * 17.9


@pytest.mark.parametrize("rounding", ["nearest", "calibrated"])
def test_layers_are_rounded_alike(apple_or_intel: torch.device, rounding: str) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(48, 32, generator=generator).half()
    sums = torch.stack([t.double().sum(0) for t in (rows.abs(), rows, rows.float().square())])
    outputs = torch.tensor([1.0, 0, 1], dtype=torch.float64)
    layer = LayerStatistics(input_rows=len(rows), input_sums=sums, output_sums=outputs, rows=rows, shape=(24, 32))
    weight = torch.randn(24, 32, generator=generator).half()
    for form in {form for each in FORMATS.values() for form in (*each.forms, each.form)}:
        here, there = (
            quantize_layer(sent(weight, device), layer, form, rounding)  # type: ignore[arg-type]
            for device in ("cpu", apple_or_intel)
        )
        assert torch.equal(here.scale, there.scale), form.name
        stored = [form.encode(each.codes).cpu().view(torch.uint8) for each in (here, there)]
        assert float((stored[0] != stored[1]).float().mean()) <= (0.02 if rounding == "calibrated" else 0), form.name
        assert there.error == pytest.approx(here.error, rel=1e-3)


@pytest.mark.parametrize("mode", ["v1", "v2", "int8"])
@pytest.mark.parametrize("knows_qr", [True, False])
def test_files_are_written_by_the_device(
    apple: torch.device, example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, knows_qr: bool
) -> None:
    """Where it lacks an operation of rounding, layers are rounded on the CPU."""
    if not knows_qr:
        monkeypatch.setattr(lesser, "lacking_operations", {*lesser.lacking_operations, torch.linalg.qr})
    paths = [tmp_path / "here.safetensors", tmp_path / "there.safetensors"]
    for path, device in zip(paths, ("cpu", apple), strict=True):
        quantize(example.path, path, example.statistics, mode=mode, rounding="nearest", device=device)
    assert rounding_device(apple) == (apple if knows_qr else torch.device("cpu"))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("inference", [False, True])
def test_gradients_measure_the_same(apple_or_intel: torch.device, inference: bool) -> None:
    def impacts(device: torch.device) -> dict[str, float]:
        net, entries = blocks(inference=inference)
        net.to(device)
        layers = dict(quantizable_layers(net))
        meter = GradientMeter(net, entries, device, {}, vectors=50)
        return meter.impacts(layers, {name: lambda weight: weight * 1e-3 for name in layers})

    there, here = impacts(apple_or_intel), impacts(torch.device("cpu"))
    assert there == pytest.approx(here, rel=1e-5)


def test_what_is_sent_and_widened_keeps_its_numbers(apple: torch.device) -> None:
    numbers = torch.tensor([0.5, -3.0, 448.0])
    for kind in (*KINDS, torch.float64, torch.float16):
        there = sent(numbers.to(kind), apple)
        assert there.device == apple and torch.equal(there.cpu().float(), numbers.to(kind).float())
    assert sent(torch.tensor([7], dtype=torch.int64), apple).dtype == torch.int64
    assert wide(numbers.to(apple)).dtype == torch.float64
