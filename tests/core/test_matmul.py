"""The FP8 product of a Linear layer, on the kernel that torch has for CPUs."""

import pytest
import torch

from hswq_core.grids import E4M3
from hswq_core.inference.fp8_matmul import fits_fp8_matmul, fp8_linear
from tests.core.capabilities import needs_fp8_products


def weight(rows: int = 32, columns: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.03
    scale = values.abs().amax() / E4M3.largest
    return E4M3.quantize(values, scale), scale.reshape(1)


@needs_fp8_products
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 500.0])
def test_it_is_the_product_with_a_rounded_input(dtype: torch.dtype, magnitude: float) -> None:
    codes, scale = weight()
    x = (torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)) * magnitude).to(dtype)
    bias = torch.linspace(-1, 1, 32, dtype=dtype)
    input_scale = x.float().abs().amax() / E4M3.largest
    rounded = E4M3.dequantize(E4M3.quantize(x.float(), input_scale), input_scale)
    exact = rounded @ E4M3.dequantize(codes, scale).t() + bias.float()
    out = fp8_linear(x, codes, scale, bias)
    assert out.dtype == dtype and out.shape == (2, 5, 32)
    torch.testing.assert_close(out.float(), exact, rtol=2e-2, atol=2e-2 * float(exact.abs().mean()))


@needs_fp8_products
def test_zeros_give_the_bias() -> None:
    codes, scale = weight()
    assert torch.equal(fp8_linear(torch.zeros(3, 64), codes, scale, torch.ones(32)), torch.ones(3, 32))


def test_what_does_not_fit() -> None:
    codes, scale = weight()
    assert fits_fp8_matmul(codes, scale)
    assert not fits_fp8_matmul(*weight(rows=24))
    assert not fits_fp8_matmul(codes, scale.expand(32))
    assert not fits_fp8_matmul(codes.view(32, 64, 1, 1), scale)
    assert not fits_fp8_matmul(codes.float().to(torch.float8_e5m2), scale)
