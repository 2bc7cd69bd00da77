"""NVFP4: its numbers, the scales of its blocks and calibrated rounding, against definitions written out."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from hswq_core.grids import E2M1
from hswq_core.grids.block_scales import BLOCK, search_block_scales, stored_scales
from hswq_core.rounding.weight import quantize_weight, scale_like

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def test_the_numbers_are_those_of_the_specification(device: torch.device) -> None:
    assert E2M1.magnitudes().tolist() == list(MAGNITUDES)
    values = torch.linspace(-7, 7, 1793, dtype=torch.float64)
    grid = torch.tensor([*MAGNITUDES, *(-value for value in MAGNITUDES[1:])], dtype=torch.float64)
    found = E2M1.quantize(values.to(device)).float().double().cpu()
    distance = (values[:, None] - grid).abs()
    assert torch.equal((found - values).abs(), distance.amin(1))
    # Between two numbers the one with an even code is taken.
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    assert E2M1.quantize(middles).float().tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    assert E2M1.quantize(torch.tensor([99.0, -99.0])).float().tolist() == [6.0, -6.0]
    half = values.half().repeat(50)  # long enough for the table of 16-bit values
    assert torch.equal(E2M1.quantize(half).float()[:1793], E2M1.quantize(values.half().float()).float())


@pytest.mark.parametrize("size", [1e-12, 1e-6, 0.02, 3.0, 1e4])
@pytest.mark.parametrize("shape", [(6, 100), (130, 64)])
def test_block_scales_beat_the_largest_value(shape: tuple[int, int], size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator) * size
    weight[0, :32] = 0
    importance = torch.rand(shape[1], generator=generator) + 0.1
    scale, error = search_block_scales(weight, importance, E2M1)
    assert scale.shape == (shape[0], -(-shape[1] // BLOCK)) and bool((scale > 0).all())
    found = plain = 0.0
    wide = weight.double()
    for row, block in product(range(shape[0]), range(scale.shape[1])):
        here = slice(block * BLOCK, (block + 1) * BLOCK)
        values, each = wide[row, here], importance[here].double()
        for step, is_ours in ((float(scale[row, block]), True), (float(values.abs().max()) / 6 or 1.0, False)):
            grid = torch.tensor([sign * m * step for m in MAGNITUDES for sign in (1, -1)], dtype=torch.float64)
            nearest = float(((values[:, None] - grid).abs().amin(1).square() * each).sum())
            found, plain = (found + nearest, plain) if is_ours else (found, plain + nearest)
    assert error == pytest.approx(found, rel=1e-4)
    assert found < 0.85 * plain
    stored, factor = stored_scales(scale)
    assert torch.equal(stored.float() * factor, scale) and torch.tensor(factor).log2() % 1 == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [0.003, 0.05, 2.0])
def test_readers_that_multiply_in_16_bits_lose_nothing(dtype: torch.dtype, size: float) -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(3)) * size
    rounded = quantize_weight(weight, grid=E2M1, scaling="block")
    scales, factor = stored_scales(rounded.scale)
    exact = E2M1.dequantize(rounded.codes, scale_like(weight, rounded.scale))
    # As comfy-kitchen computes it on a CPU: every factor and product in the type itself.
    total = torch.tensor(factor).to(dtype) * scales.to(dtype)
    assert torch.equal(
        (rounded.codes.to(dtype).unflatten(1, (-1, BLOCK)) * total[:, :, None]).flatten(1).float(), exact
    )


def test_calibrated_rounding_stays_on_the_grid_and_gains() -> None:
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(48, 160, generator=generator) * 0.05
    rows = torch.randn(400, 160, generator=generator) @ torch.randn(160, 160, generator=generator) * 0.1
    found = quantize_weight(weight, grid=E2M1, scaling="block", rows=rows, second_moment=rows.square().mean(0).double())
    assert set(found.codes.float().abs().unique().tolist()) <= set(MAGNITUDES)
    assert found.gain is not None and found.gain < 0.9
    nearest = quantize_weight(weight, grid=E2M1, scaling="block")
    errors = [
        (rows @ (E2M1.dequantize(each.codes, scale_like(weight, each.scale)) - weight).t()).square().sum()
        for each in (found, nearest)
    ]
    assert errors[0] < 0.9 * errors[1]
