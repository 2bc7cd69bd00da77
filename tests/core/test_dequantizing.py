"""Codes to weights on a CPU: the numbers of one product in float32, rounded once, and whose memory they are in."""

import threading

import pytest
import torch

from hswq_core.inference.dequantize import dequantize
from hswq_core.inference.scratch import memory_for, reused_memory

CODES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CPU = torch.device("cpu")


def codes_of(kind: torch.dtype, shape: tuple[int, ...], *, finite: bool) -> torch.Tensor:
    """All of a type's codes, with or without those that are not finite."""
    found = torch.arange(256, dtype=torch.uint8)
    found = found[found.view(kind).float().isfinite()] if finite else found
    count = torch.Size(shape).numel()
    return found.repeat(-(-count // len(found)))[:count].view(kind).view(shape)


@pytest.mark.parametrize("finite", [True, False], ids=["finite", "with NaN"])
@pytest.mark.parametrize("kind", CODES, ids=str)
@pytest.mark.parametrize("shape", [(512, 1024), (7, 9), (32, 8, 3, 3), (1, 300)], ids=str)
def test_every_code_is_its_value_times_the_scale(kind: torch.dtype, shape: tuple[int, ...], finite: bool) -> None:
    codes = codes_of(kind, shape, finite=finite)
    by_channel = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=torch.Generator().manual_seed(0)) + 1e-3
    for scale in (torch.tensor(0.37), torch.tensor([3e-5]), by_channel):
        for dtype in DTYPES:
            found, expected = dequantize(codes, scale, dtype), (codes.float() * scale).to(dtype)
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_codes_that_lie_elsewhere_in_memory() -> None:
    codes = codes_of(torch.int8, (40, 24), finite=True).t()
    scale = torch.rand(24, 1)
    assert torch.equal(dequantize(codes, scale, torch.float32), codes.float() * scale)
    assert torch.equal(dequantize(codes[0], torch.tensor(0.5), torch.float32), codes[0].float() * 0.5)
    assert torch.equal(dequantize(codes, torch.rand(1, 40).fill_(2), torch.float32), codes.float() * 2)


def test_memory_is_used_again_within_a_run_alone() -> None:
    with torch.no_grad():
        assert memory_for((4, 4), torch.float32, CPU) is None
        with reused_memory():
            first, second = (memory_for((4, 4), torch.float32, CPU) for _ in range(2))
            assert first is not None and second is not None and first.data_ptr() == second.data_ptr()
            larger = memory_for((64, 64), torch.float16, CPU)
            assert larger is not None and larger.shape == (64, 64) and larger.dtype == torch.float16
            assert memory_for((4, 4), torch.float32, torch.device("meta")) is None
            with torch.enable_grad():
                assert memory_for((4, 4), torch.float32, CPU) is None
            found: list[object] = [0]
            thread = threading.Thread(target=lambda: found.append(memory_for((4, 4), torch.float32, CPU)))
            thread.start()
            thread.join()
            assert found == [0, None]
        assert memory_for((4, 4), torch.float32, CPU) is None


def test_memory_of_one_mode_is_written_in_another() -> None:
    codes, scale = codes_of(torch.int8, (8, 8), finite=True), torch.tensor(0.5)
    with torch.no_grad(), reused_memory():
        for mode in (True, False, True):
            with torch.inference_mode(mode), torch.no_grad():
                out = memory_for((8, 8), torch.float32, CPU)
                assert torch.equal(dequantize(codes, scale, torch.float32, out), codes.float() * 0.5)
