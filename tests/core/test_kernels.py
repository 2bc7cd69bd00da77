"""Triton's kernels in its interpreter, against torch, and its compiler's result for GPUs that are not here."""

import importlib
import subprocess
import sys
from collections.abc import Hashable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hswq_core.backend import Operation
from hswq_core.calibration.accumulators.triton import LAYER_SUMS
from hswq_core.grids import E4M3
from hswq_core.inference.dequantize import DEQUANTIZE, fits_kernel
from hswq_core.inference.fp8_matmul import QUANTIZE_INPUT
from hswq_core.inference.int8_linear import ROWS
from hswq_core.inference.packed import DEQUANTIZE_PACKED
from hswq_core.kernels.launch import Kernel
from hswq_core.rounding.sequential import ROUND_ROWS, round_rows
from tests.core.capabilities import needs_triton

pytestmark = needs_triton


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 0.0123, 3e-6])
def test_every_code_is_multiplied_in_float32_and_rounded_once(dtype: torch.dtype, scale: float) -> None:
    from hswq_core.kernels.e4m3 import dequantize

    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).repeat(13)[:-3].view(5, -1)
    expected = E4M3.dequantize(codes, torch.tensor(scale)).to(dtype)
    torch.testing.assert_close(
        dequantize(codes, torch.tensor([scale]), dtype), expected, rtol=0, atol=0, equal_nan=True
    )


def test_which_weights_the_kernel_is_for() -> None:
    codes, one = torch.zeros(4, 6).to(torch.float8_e4m3fn), torch.ones(1)
    assert fits_kernel(codes, one) and fits_kernel(codes, one.reshape(()))
    assert not fits_kernel(codes.float().to(torch.float8_e5m2), one)
    assert not fits_kernel(codes, torch.ones(4, 1))
    assert not fits_kernel(codes, one.half())
    assert not fits_kernel(codes.t(), one)


@pytest.mark.parametrize("unit", [2.0**-10, 1.0, 2.0**7])
def test_inputs_fill_the_grid(unit: float) -> None:
    from hswq_core.kernels.e4m3 import quantize

    # Points of the grid alone: the interpreter does not round to the nearest as hardware does.
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes = codes[codes.float().isfinite()].repeat(11)[:-3]
    found, scale = quantize(codes.float() * unit, 1e-12)
    assert float(scale) == unit
    assert torch.equal(found.float(), codes.float())


@pytest.mark.parametrize("shape", [(3, 64), (2, 2500), (1, 1)], ids=str)
def test_rows_are_rounded_to_the_nearest_even_integer(shape: tuple[int, int]) -> None:
    from hswq_core.kernels.int8 import quantize_rows

    # In units of one half, so that ties are exact; the largest of a row is 127.
    halves = torch.randint(-253, 254, shape, generator=torch.Generator().manual_seed(0)).float()
    halves[:, 0] = 254
    codes, scale = quantize_rows(halves / 2, 1e-30)
    assert torch.equal(scale, torch.ones(shape[0], 1)) and torch.equal(codes.float(), (halves / 2).round())


def test_zeros_stay_zeros() -> None:
    from hswq_core.kernels.e4m3 import quantize

    found, scale = quantize(torch.zeros(37, 48), 1e-12)
    assert float(scale) == pytest.approx(1e-12) and not found.float().any()


def test_the_sums_kernel_is_checked_against_torch_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from hswq_core.kernels import layer_sums

    launch = layer_sums.measure_layer.launch  # which agrees, as the test of all self-tests shows
    monkeypatch.setattr(layer_sums.measure_layer, "launch", lambda programs, *rest: launch(programs - 1, *rest))
    assert not LAYER_SUMS.agrees(layer_sums, torch.device("cpu"))


@pytest.fixture(params=["hswq_core.kernels.sequential", "hswq_core.rounding.sequential_cpu"])
def sequential_rounding(request: pytest.FixtureRequest) -> ModuleType:
    """What rounds a strip of columns in the place of torch: on cards, and on a CPU."""
    return importlib.import_module(request.param)


def test_rounding_to_the_grid_is_torchs_own(sequential_rounding: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    points = points[points.isfinite()].sort().values
    ties = (points[1:] + points[:-1]) / 2
    spread = torch.randn(3000, generator=generator) * torch.logspace(-6, 3, 3000)
    target = torch.cat([points, ties, ties.nextafter(points[1:]), ties.nextafter(points[:-1]), spread])[None]
    rounded, change = sequential_rounding.round_strips(E4M3, target.clone(), torch.zeros(1, 1), None)
    expected = E4M3.dequantize(E4M3.quantize(target))
    assert torch.equal(rounded, expected) and torch.equal(change, target - expected)


@pytest.mark.parametrize("against_values", [False, True])
def test_rows_move_those_after_them(sequential_rounding: ModuleType, against_values: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    target, values = torch.randn(2, 29, 70, generator=generator).mul(40).unbind()
    coupling = torch.randn(29, 29, generator=generator) * 0.1
    base = values if against_values else None
    found = sequential_rounding.round_strips(E4M3, target.clone(), coupling, base)
    for row in range(29):
        # In float64, from what the kernel itself has rounded before.
        wanted = target[row].double() + coupling[:row, row].double() @ found[1][:row].double()
        rounded = E4M3.dequantize(E4M3.quantize(wanted.float()))
        assert (found[0][row] == rounded).float().mean() > 0.98
        start = values[row] if against_values else wanted.float()
        torch.testing.assert_close(found[1][row], start - found[0][row], rtol=0, atol=1e-4)
    taken = round_rows(E4M3, target.clone(), coupling, base)
    assert (taken[0][:5] == found[0][:5]).float().mean() > 0.98


@pytest.mark.parametrize(
    "operation", [DEQUANTIZE, DEQUANTIZE_PACKED, QUANTIZE_INPUT, ROWS, ROUND_ROWS, LAYER_SUMS], ids=lambda o: o.name
)
def test_a_self_test_makes_the_launches_that_sampling_makes(
    monkeypatch: pytest.MonkeyPatch, operation: Operation
) -> None:
    """In all types and from any address, and again past Triton's launcher: what is wrong there alone is found."""
    module = importlib.import_module(f"hswq_core.kernels.{operation.module}")
    seen: dict[tuple[Hashable, ...], int] = {}
    launch = Kernel.launch

    def counted(self: Kernel, programs: int, kind: Hashable, *arguments: object) -> None:
        seen[id(self), kind] = seen.get((id(self), kind), 0) + 1
        # The interpreter has no compiled form; every launch goes through the launcher.
        launch(self, programs, (kind, len(seen), sum(seen.values())), *arguments)

    monkeypatch.setattr(Kernel, "launch", counted)
    assert operation.agrees(module, torch.device("cpu"))
    assert min(seen.values()) > 1
    kinds = [part for _, kind in seen for part in kind]  # type: ignore[attr-defined]
    assert True in kinds and False in kinds
    if operation is not ROUND_ROWS:
        assert {torch.float16, torch.bfloat16, torch.float32} <= set(kinds)

    def wrong_again(self: Kernel, programs: int, kind: Hashable, *arguments: object) -> None:
        seen[id(self), kind] = seen.get((id(self), kind), 0) + 1
        if seen[id(self), kind] == 1:
            launch(self, programs, (kind, sum(seen.values())), *arguments)

    seen.clear()
    monkeypatch.setattr(Kernel, "launch", wrong_again)
    assert not operation.agrees(module, torch.device("cpu"))


COMPILE = """
import re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hswq_core.kernels import e4m3, int8, layer_sums, packed, sequential

def compiled(function, architecture, **types):
    pointers = [i for i, kind in enumerate(types.values()) if kind.startswith("*")]
    attributes = {(i,): [["tt.divisibility", 16]] for i in pointers}
    source = ASTSource(fn=function, signature=types, constexprs={}, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32)).asm["ptx"]

for architecture in map(int, sys.argv[1:]):
    # Between the oldest and the newest, only what they do not share is new: products in FP8.
    for kind in ("fp16",) if architecture == 89 else ("fp16", "bf16", "fp32"):
        x = "*" + kind
        ptx = compiled(
            layer_sums._measure_layer, architecture, x=x, y=x, params="*i64", input_sums="*fp64",
            output_sums="*fp64", chosen="*i64", rows="*fp16", first="i32", count="i32",
        )
        assert len(re.findall(r"ld[.]global[.]v4[.]b32", ptx)) >= 5, "input and output are read 16 bytes at a time"
        compiled(
            sequential._round_strip, architecture, target="*fp32", values="*fp32", coupling="*fp32", unit="*fp32",
            rounded="*fp32", change="*fp32", rows="i32", columns="i32", own="i32", is_scaled="i32", largest="fp32",
            least_normal="fp32", spacing="fp32",
        )
        ptx = compiled(
            int8._quantize_row, architecture, x=x, codes="*i8", scale="*fp32", scale_floor="fp32", columns="i32",
        )
        assert "0f4B400000" in ptx, "the rounding is not optimized away"
        compiled(
            int8._scale_block, architecture, sums="*i32", row_scale="*fp32", scale="*fp32", bias=x, out=x, count="i32",
            columns="i32", has_bias="i32",
        )
        compiled(e4m3._dequantize_block, architecture, codes="*u8", scale="*fp32", out=x, count="i32")
        compiled(
            packed._dequantize_block, architecture, packed="*u8", scale="*fp16", out=x, columns="i32", blocks="i32",
            row_bytes="i32", groups="i32", bits="i32",
        )
        if architecture >= 89:
            compiled(e4m3._largest_of_block, architecture, x=x, largest="*fp32", count="i32")
            compiled(
                e4m3._quantize_block, architecture, x=x, largest="*fp32", scale_floor="fp32", codes="*fp8e4nv",
                scale="*fp32", count="i32",
            )
"""


def test_they_compile_for_old_and_new_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    command = [sys.executable, "-c", COMPILE, "75", "89", "120"]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
