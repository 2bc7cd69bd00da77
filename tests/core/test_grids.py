"""The arithmetic of one weight, against definitions written out independently."""

import numpy as np
import pytest
import torch

from hswq_core.grids import E4M3, INT8
from hswq_core.grids.histogram import Histogram, histogram
from hswq_core.grids.scale_search import scale_of, search_amax
from hswq_core.rounding.weight import quantize_weight, squared_error


def nearest_on_grid(values: np.ndarray) -> np.ndarray:
    """Every value's nearest e4m3 number, ties to the even code, from the format's definition alone."""
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, codes & 7
    grid = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    distance = np.abs(np.abs(values)[:, None] - grid[None, :])
    best = distance.min(axis=1, keepdims=True)
    even_first = np.where(distance == best, codes % 2, 2)
    return np.sign(values) * grid[even_first.argmin(axis=1)]


def test_the_grid_is_e4m3() -> None:
    assert E4M3.magnitudes().numel() == 127
    assert E4M3.magnitudes()[0] == 0 and E4M3.magnitudes()[1] == 2.0**-9 and E4M3.magnitudes()[-1] == E4M3.largest


def test_quantize_rounds_to_the_nearest_grid_point_and_saturates(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.randn(4000, generator=generator) * s for s in (1e-3, 0.02, 1.0, 300.0)])
    midpoints = (E4M3.magnitudes()[1:] + E4M3.magnitudes()[:-1]) / 2
    values = torch.cat([values, midpoints, -midpoints, torch.tensor([1e6, -1e6, 449.0])])
    expected = nearest_on_grid(values.double().numpy())
    assert np.array_equal(E4M3.dequantize(E4M3.quantize(values.to(device))).cpu().double().numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 40), (8, 12, 3, 3)], ids=["linear", "conv"])
def test_histogram_is_exact(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(shape, generator=generator) * 0.05).to(dtype)
    importance = torch.rand(shape[1], generator=generator)
    expected: dict[float, float] = {}
    for index in np.ndindex(*shape):
        key = abs(float(weight[index]))
        expected[key] = expected.get(key, 0.0) + float(importance[index[1]])
    found = histogram(weight.to(device), importance.to(device))
    assert found.values.tolist() == sorted(expected)
    assert found.weights.tolist() == pytest.approx([expected[v] for v in sorted(expected)], rel=1e-6)


def mean_error(distribution: Histogram, amax: float) -> float:
    return squared_error(distribution, scale_of(amax, E4M3), E4M3) / float(distribution.weights.sum())


def test_weighted_errors_are_the_elementwise_definition() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = (torch.randn(32, 48, generator=generator) * 0.05).half()
    importance = torch.rand(48, generator=generator)
    amax = 0.7 * float(weight.abs().max())
    scale = amax / E4M3.largest
    restored = nearest_on_grid((weight.double().clamp(-amax, amax) / scale).flatten().numpy()).reshape(32, 48) * scale
    squared = (restored - weight.double().numpy()) ** 2 * importance.double().numpy()[None, :]
    expected = squared.sum() / (importance.double().sum() * 32)
    assert mean_error(histogram(weight, importance), amax) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("spread", [1e-4, 0.02, 3.0])
def test_search_is_as_good_as_a_dense_sweep_of_the_model_cards_range(spread: float) -> None:
    generator = torch.Generator().manual_seed(3)
    distribution = histogram((torch.randn(64, 64, generator=generator) * spread).half())
    found = search_amax(distribution, E4M3)
    sweep = [mean_error(distribution, ratio * distribution.amax) for ratio in torch.linspace(0.5, 1.0, 1001).tolist()]
    assert found.error == pytest.approx(mean_error(distribution, found.amax), rel=1e-4)
    assert found.error <= sweep[-1] * (1 + 1e-9) and found.error <= min(sweep) * 1.02


def test_scaled_is_never_worse_than_a_plain_cast() -> None:
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        spread = 10.0 ** float(torch.rand(1, generator=generator) * 5 - 4)
        weight = (torch.rand(48, 48, generator=generator) * 2 - 1) * spread
        if seed % 2:
            weight = torch.randn(48, 48, generator=generator) * spread
        distribution = histogram(weight.half(), torch.rand(48, generator=generator))
        values, weights = distribution.values, distribution.weights
        plain = float((E4M3.dequantize(E4M3.quantize(values)) - values).square().double() @ weights / weights.sum())
        assert search_amax(distribution, E4M3).error <= plain * (1 + 1e-6)


def test_v1_clip_search_can_never_beat_the_plain_cast() -> None:
    """The proof that V1 needs no search: over many distributions no clip has less error than max|W|."""
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(40, 40, generator=generator) * 10.0 ** float(torch.rand(1, generator=generator) * 4 - 3)
        weight = (weight * (1 + 20 * (torch.rand(40, 40, generator=generator) < 0.01))).clamp(-448, 448).half()
        values, importance = weight.double().numpy(), torch.rand(40, generator=generator).double().numpy()
        largest = np.abs(values).max()
        errors = []
        for clip in np.linspace(0.3, 1.0, 50) * largest:
            rounded = nearest_on_grid(values.clip(-clip, clip).flatten()).reshape(values.shape)
            errors.append(((rounded - values) ** 2 * importance).sum())
        assert min(errors) >= errors[-1]


def test_degenerate_layers() -> None:
    zeros = torch.zeros(8, 8, dtype=torch.float16)
    assert search_amax(histogram(zeros), E4M3).amax == 0.0
    assert scale_of(0.0, E4M3).tolist() == [1.0]
    tiny = torch.full((8, 8), 6e-8, dtype=torch.float16)
    scale = scale_of(search_amax(histogram(tiny), E4M3).amax, E4M3)
    assert torch.allclose(E4M3.dequantize(E4M3.quantize(tiny, scale), scale), tiny.float(), rtol=0.07)
    dead_input = histogram(tiny, torch.zeros(8))
    assert dead_input.weights.sum() == 64


def test_fp32_weights_beyond_fp16_are_counted() -> None:
    weight = torch.tensor([[1e5, -3.0]], dtype=torch.float32)
    assert histogram(weight).values.tolist() == pytest.approx([3.0, 1e5], rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_weights_are_rounded_like_small_ones(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    weight = (torch.randn(300, 400, generator=generator) * 0.03).to(dtype)
    scale = scale_of(float(weight.abs().max()) * 0.8, E4M3)
    pieces = [E4M3.quantize(row, scale) for row in weight]
    assert torch.equal(E4M3.quantize(weight, scale).view(torch.uint8), torch.stack(pieces).view(torch.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_histogram_notices_what_is_not_a_number(value: float, dtype: torch.dtype) -> None:
    weight = torch.ones(8, 8, dtype=dtype)
    assert histogram(weight, torch.zeros(8)).is_finite and histogram(weight).is_finite
    weight[2, 2] = value
    importance = torch.ones(8)
    importance[2] = 0
    assert not histogram(weight).is_finite and not histogram(weight, importance).is_finite


def test_everything_asks_the_grid_for_its_values() -> None:
    """Eight-bit integers: another type, another range, spacing of one throughout."""
    integers = INT8
    assert integers.magnitudes().tolist() == list(range(128))
    assert not integers.is_self_similar and E4M3.is_self_similar
    values = torch.tensor([0.5, 1.5, -2.5, 126.6, 200.0, -200.0])
    assert integers.quantize(values).tolist() == [0, 2, -2, 127, 127, -127]  # ties to even, symmetric
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(300, 400, generator=generator).mul(0.02).half()
    found = quantize_weight(weight, grid=integers, scaling="channel")
    assert found.codes.dtype == torch.int8
    row_maxima = weight.float().abs().amax(1)
    torch.testing.assert_close(found.scale, row_maxima / 127)
    restored = integers.dequantize(found.codes, found.scale[:, None])
    assert float((restored - weight).abs().max()) <= float(found.scale.max()) / 2 * 1.001
    one_scale = quantize_weight(weight, grid=integers, scaling="tensor")
    assert 0.5 * float(row_maxima.max()) / 127 <= float(one_scale.scale) <= float(row_maxima.max()) / 127
