"""Calibrated rounding: the published method's answer, never worse than nearest, whole files of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hswq_core.calibration import Statistics
from hswq_core.errors import StatisticsError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.grids import E4M3
from hswq_core.options import QuantizeOptions
from hswq_core.planning import make_plan, match_source
from hswq_core.quantize_file import quantize_checkpoint
from hswq_core.rounding import sequential_cpu
from hswq_core.rounding.coordinate_descent import refine
from hswq_core.rounding.gptq import damping, round_calibrated
from hswq_core.rounding.sequential import ROUND_ROWS
from tests.core.conftest import Example

ONE = torch.ones(1)


def test_a_cpu_rounds_as_torch_does_on_every_grid() -> None:
    assert ROUND_ROWS.agrees(sequential_cpu, torch.device("cpu"))


def correlated(rows: int, columns: int, rank: int, seed: int = 0) -> torch.Tensor:
    """Inputs as layers have them: a few directions carry most of the energy."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0, -2, columns)
    mixing = torch.randn(rank, columns, generator=generator)
    base = torch.randn(rows, rank, generator=generator) @ mixing
    return (base + 0.3 * torch.randn(rows, columns, generator=generator)) * spread


def gptq(weight: torch.Tensor, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The published algorithm as it is written: one column at a time, K x K moments, in float64."""
    x = rows.double() / len(rows) ** 0.5
    moments = x.t() @ x
    moments.diagonal().add_(damping(x) * float(moments.diagonal().mean()))
    order = moments.diagonal().argsort(descending=True)
    moments, left = moments[order][:, order], weight[:, order].double()
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)
    rounded = torch.empty_like(left)
    for j in range(left.shape[1]):
        rounded[:, j] = E4M3.dequantize(E4M3.quantize(left[:, j].float(), scale), scale).double()
        error = (left[:, j] - rounded[:, j]) / spread[j, j]
        left[:, j:] -= error[:, None] * spread[j, j:]
    result = torch.empty_like(rounded)
    result[:, order] = rounded
    return result.float()


@pytest.mark.parametrize(("rows", "columns"), [(300, 700), (900, 200), (40, 1100)])
@pytest.mark.parametrize("scale", [1.0, 2.0**-7 * 1.3])
def test_it_is_gptq_computed_from_few_rows(
    device: torch.device, rows: int, columns: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hswq_core.rounding.gptq.PASSES", 0)
    # The damping dominates where rows are far fewer than columns, so few of them leave nothing to chance.
    x = correlated(rows, columns, 30).half()
    weight = torch.randn(48, columns, generator=torch.Generator().manual_seed(1)) * 0.02
    unit = torch.tensor([scale])
    ours = round_calibrated(
        E4M3, weight.to(device), unit.to(device), x.to(device), x.float().square().mean(0).to(device)
    )
    published = gptq(weight, x.float(), unit)
    agreement = (E4M3.dequantize(ours.codes.cpu(), unit) == published).float().mean()
    assert agreement > 0.99
    assert ours.error < 0.7 * ours.nearest_error


@pytest.mark.parametrize("scale", [1.0, 2.0**-7 * 1.3])
def test_refining_ends_where_no_other_code_is_better(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x = correlated(60, 300, 20) / 60**0.5
    weight = torch.randn(300, 5, generator=generator) * 0.02
    unit, damp = torch.tensor([scale]), 0.05

    def error(codes: torch.Tensor) -> torch.Tensor:
        lost = (weight - E4M3.dequantize(codes, unit)).double()
        return (x.double() @ lost).square().sum(0) + damp * lost.square().sum(0)

    codes = E4M3.quantize(weight, unit)
    errors = [error(codes)]
    for passes in (1, 1, 1, 40):
        residual = x @ (weight - E4M3.dequantize(codes, unit))
        codes, residual = refine(E4M3, weight, codes, x, residual, unit, damp, passes)
        torch.testing.assert_close(residual, x @ (weight - E4M3.dequantize(codes, unit)), rtol=1e-3, atol=1e-5)
        errors.append(error(codes))
        assert (errors[-1] <= errors[-2] * (1 + 1e-6)).all()
    assert (errors[-1] < 0.5 * errors[0]).all()
    bits = codes.view(torch.uint8)
    for row in range(0, 300, 7):
        for step in (-1, 1):
            neighbour = bits.clone()
            neighbour[row] += step  # the next code up or down in magnitude; zero's is NaN one way
            other = error(neighbour.view(codes.dtype)).nan_to_num(nan=float("inf"))
            assert (other >= errors[-1] * (1 - 1e-6)).all()


def test_the_damping_falls_with_more_rows_and_vanishes_for_few_directions() -> None:
    many, few, narrow = correlated(4000, 300, 300), correlated(200, 300, 300), correlated(200, 300, 2)
    found = [damping(x / len(x) ** 0.5) for x in (many, few, narrow)]
    assert found[0] < 0.2 * found[1] and found[2] < 0.2 * found[1]


@pytest.mark.parametrize("shape", [(32, 64), (24, 10, 3, 3), (24, 40, 1, 1)])
@pytest.mark.parametrize("scale", [1.0, 0.003])
def test_the_outputs_error_is_never_above_nearest_roundings(shape: tuple[int, ...], scale: float) -> None:
    columns, unit = int(torch.tensor(shape[1:]).prod()), torch.tensor([scale])
    for seed in range(5):
        rows = correlated(500, columns, 12, seed).half()
        moment = rows.float().square().mean(0).view(shape[1], -1).mean(1)
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05
        found = round_calibrated(E4M3, weight, unit, rows, moment)
        assert found.codes.shape == weight.shape and found.codes.dtype == torch.float8_e4m3fn
        assert found.error <= found.nearest_error
        again = round_calibrated(E4M3, weight, unit, rows, moment)
        assert torch.equal(found.codes.view(torch.uint8), again.codes.view(torch.uint8))
        # Inputs that were not calibrated with, of the same kind.
        fresh = correlated(5000, columns, 12, seed)[500:]
        error, nearest = (
            (fresh @ (E4M3.dequantize(codes, unit) - weight).flatten(1).t()).square().mean()
            for codes in (found.codes, E4M3.quantize(weight, unit))
        )
        assert error < 0.8 * nearest


def test_a_scale_for_each_channel_rounds_each_as_if_alone() -> None:
    rows = correlated(500, 90, 12).half()
    weight = torch.randn(6, 10, 3, 3, generator=torch.Generator().manual_seed(2)) * 0.05
    moment = rows.float().square().mean(0).view(10, -1).mean(1)
    scales = torch.logspace(-3, 0, 6)
    together = round_calibrated(E4M3, weight, scales, rows, moment)
    for channel in range(6):
        alone = round_calibrated(E4M3, weight[channel : channel + 1], scales[channel : channel + 1], rows, moment)
        same = alone.codes.view(torch.uint8) == together.codes[channel : channel + 1].view(torch.uint8)
        assert same.float().mean() > 0.97  # ties of float sums in another order
    assert not round_calibrated(E4M3, weight * 0, scales, rows * 0, moment * 0).codes.float().any()


@pytest.mark.parametrize("rows", [torch.zeros(10, 16), torch.ones(10, 16), torch.full((1, 16), 60000.0)])
def test_inputs_that_say_nothing_do_no_harm(rows: torch.Tensor) -> None:
    weight = torch.randn(8, 16)
    found = round_calibrated(E4M3, weight, ONE, rows.half(), rows.square().mean(0))
    assert found.error <= found.nearest_error and not found.codes.float().isnan().any()


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy"])
def test_files_keep_their_format_and_size(example: Example, tmp_path: Path, mode: str) -> None:
    written, reports = {}, {}
    for rounding in ("nearest", "calibrated"):
        path = tmp_path / f"{rounding}.safetensors"
        with CheckpointReader(example.path) as source:
            plan = make_plan(
                match_source(source, example.statistics), QuantizeOptions(mode=mode, keep_ratio=0.0, rounding=rounding)
            )
            reports[rounding] = quantize_checkpoint(match_source(source, example.statistics), plan, path)
        written[rounding] = load_file(path)
    nearest, calibrated = written["nearest"], written["calibrated"]
    assert {k: (t.dtype, t.shape) for k, t in nearest.items()} == {k: (t.dtype, t.shape) for k, t in calibrated.items()}
    differing = [
        k
        for k, t in nearest.items()
        if not torch.equal(t.flatten().view(torch.uint8), calibrated[k].flatten().view(torch.uint8))
    ]
    assert differing and all(nearest[k].dtype == torch.float8_e4m3fn for k in differing)
    assert reports["calibrated"].calibrated_layers > 0 and reports["nearest"].calibrated_gain is None
    gain = reports["calibrated"].calibrated_gain
    assert gain is not None and gain <= 1.0


def test_statistics_without_rows_are_refused(example: Example) -> None:
    from dataclasses import replace

    bare = replace(example.statistics, layers={n: replace(e, rows=None) for n, e in example.statistics.layers.items()})
    assert isinstance(bare, Statistics)
    with CheckpointReader(example.path) as source, pytest.raises(StatisticsError, match="rows_per_layer"):
        make_plan(match_source(source, bare), QuantizeOptions(mode="v1", rounding="calibrated"))
