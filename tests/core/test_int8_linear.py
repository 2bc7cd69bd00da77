"""A Linear layer multiplied in integers, against the rounded factors multiplied in float64, which is exact."""

import pytest
import torch

from hswq_core.inference.int8_linear import fits_int8_linear, int8_linear, int8_problem, quantize_rows
from hswq_core.rounding.rotation import rotated

CPU = torch.device("cpu")


def layer(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and a bias."""
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(-127, 128, (rows, columns), generator=random, dtype=torch.int8)
    return codes, torch.rand(rows, 1, generator=random) + 0.01, torch.randn(rows, generator=random)


def inputs(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(x: torch.Tensor, codes: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1]).float()
    unit = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
    rounded = (rows / unit).round()
    assert rounded.abs().max() <= 127
    out = (rounded.double() @ codes.double().t()) * unit.double() * scale.double().reshape(1, -1)
    out = out if bias is None else out + bias.double()
    return out.reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "rows"),
    [((2, 300, 64), 96), ((1, 64), 32), ((5, 13), 7), ((1, 1), 1), ((17, 5120), 33), ((2, 3, 4, 24), 8)],
    ids=str,
)
def test_it_is_the_rounded_product(shape: tuple[int, ...], rows: int, dtype: torch.dtype) -> None:
    codes, scale, bias = layer(rows, shape[-1])
    x = inputs(*shape).to(dtype)
    for added in (None, bias.to(dtype)):
        out = int8_linear(x, codes, scale, added)
        assert out is not None and out.dtype == dtype and out.shape == (*shape[:-1], rows)
        expected = oracle(x, codes, scale, added)
        close = 3e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
        torch.testing.assert_close(out.double(), expected, rtol=close, atol=close * float(expected.abs().mean()))


def test_one_scale_for_all_rows() -> None:
    codes, _, bias = layer(24, 40)
    x, scale = inputs(9, 40), torch.tensor([0.25])
    torch.testing.assert_close(int8_linear(x, codes, scale, bias), oracle(x, codes, scale, bias).float())


def test_inputs_that_are_not_contiguous() -> None:
    codes, scale, bias = layer(16, 48)
    x = inputs(48, 30).t()
    assert not x.is_contiguous()
    torch.testing.assert_close(int8_linear(x, codes, scale, bias), oracle(x, codes, scale, bias).float())
    x = inputs(3, 48, 5).movedim(1, 2)
    torch.testing.assert_close(int8_linear(x, codes, scale), oracle(x, codes, scale, None).float())


def test_rows_of_zeros_give_the_bias_and_leave_the_others_alone() -> None:
    codes, scale, bias = layer(16, 48)
    x = inputs(4, 48)
    x[2] = 0
    out = int8_linear(x, codes, scale, bias)
    assert out is not None and torch.equal(out[2], bias)
    torch.testing.assert_close(out, oracle(x, codes, scale, bias).float())


@pytest.mark.parametrize("largest", [1e-38, 1e-20, 6e4, 1e30], ids=str)
def test_a_row_has_a_scale_of_its_own(largest: float) -> None:
    codes, scale, _ = layer(16, 48)
    x = inputs(3, 48)
    x[1] *= largest / x[1].abs().max()
    out = int8_linear(x, codes, scale)
    assert out is not None
    for row, expected in zip(out, oracle(x, codes, scale, None), strict=True):
        torch.testing.assert_close(row.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().mean()))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("row", [0, 700])
def test_an_input_that_is_not_finite_is_left_to_exact_arithmetic(number: float, row: int) -> None:
    codes, scale, _ = layer(16, 48)
    x = inputs(800, 48)
    x[row, 5] = number
    assert int8_linear(x, codes, scale) is None
    _, scales = quantize_rows(x)
    assert (~scales.isfinite()).flatten().nonzero().tolist() == [[row]]


def test_no_rows_at_all() -> None:
    codes, scale, bias = layer(16, 48)
    out = int8_linear(torch.empty(2, 0, 48), codes, scale, bias)
    assert out is not None and out.shape == (2, 0, 16)


@pytest.mark.parametrize("group", [16, 64])
def test_a_rotated_layer_is_the_one_that_was_rotated(group: int) -> None:
    weight, x = inputs(32, 128, seed=3), inputs(70, 128)
    x[:, 7] *= 50  # an outlier, which costs the other columns their precision
    exact = x.double() @ weight.double().t()

    def error(columns: int) -> float:
        turned = rotated(weight, columns)
        codes, scale = quantize_rows(turned)
        out = int8_linear(x, codes, scale, None, columns)
        assert out is not None
        return float((out - exact).square().sum() / exact.square().sum())

    assert error(group) < 0.5 * error(1) < 1e-2


@pytest.mark.parametrize("number", [float("nan"), float("inf")], ids=str)
def test_where_nothing_may_be_read_back_a_row_that_is_not_finite_stays_so(
    monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    codes, scale, bias = layer(32, 64)
    x = inputs(400, 64)
    expected = int8_linear(x, codes, scale, bias)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(int8_linear(x, codes, scale, bias), expected)
    x[3, 3] = number
    out = int8_linear(x, codes, scale, bias)
    assert out is not None
    assert not out[3].isfinite().any() and out[:3].isfinite().all() and out[4:].isfinite().all()


def test_what_fits() -> None:
    codes, scale, _ = layer(32, 64)
    card = torch.device("cuda")
    assert fits_int8_linear(codes, scale, CPU) and fits_int8_linear(codes, scale, card)
    assert fits_int8_linear(codes, scale[:1], card)
    assert not fits_int8_linear(codes, scale[:5], CPU)
    assert not fits_int8_linear(codes.view(32, 16, 2, 2), scale, CPU)
    assert not fits_int8_linear(codes.view(torch.uint8), scale, CPU)
    odd, scales, _ = layer(31, 64)
    assert fits_int8_linear(odd, scales, CPU) and not fits_int8_linear(odd, scales, card)


def test_a_device_is_asked_before_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int8_problem(CPU) is None

    def saturating(rows: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return (rows.double() @ codes.double()).clamp(-(2.0**15), 2.0**15).to(torch.int32)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert int8_problem.__wrapped__(CPU) == "its products of integers are wrong"

    def failing(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not implemented for 'Char'\nmore")

    monkeypatch.setattr(torch, "_int_mm", failing)
    assert "not implemented for 'Char')" in str(int8_problem.__wrapped__(CPU))
