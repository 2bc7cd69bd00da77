"""Which kernels are in use, forced or switched off, and what is said about it."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hswq_core import backend
from hswq_core.backend import COMPUTED_IN, KernelSet, KernelStatus, Operation, list_kernels
from hswq_core.calibration.accumulators.bank import SumBank
from hswq_core.errors import KernelError
from hswq_core.grids import E4M3
from hswq_core.inference import dequantize as dequantizing

CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
ROOT = Path(__file__).resolve().parents[2]
Choose = Callable[[str], None]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Choose:
    """Sets HSWQ_KERNELS as a new process would find it."""

    def chosen(name: str) -> None:
        monkeypatch.setenv(backend.VARIABLE, name)
        backend.forced_set.cache_clear()

    monkeypatch.setattr(backend, "_tested", {})
    monkeypatch.setattr(backend, "_operations", [])
    for cached in (backend.forced_set, backend._chosen, backend._say_once, backend._kitchen_problem):
        monkeypatch.setattr(backend, cached.__name__, backend.cache(cached.__wrapped__))
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    return chosen


@pytest.fixture
def card(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were one CUDA device and Triton."""
    monkeypatch.setattr(backend, "_installed", lambda package: package == "triton")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def operation(name: str, agrees: bool | Exception = True, kernels: KernelSet = backend.TRITON) -> Operation:
    """One with a self-test that comes out as told. Its module is one that needs no Triton."""

    def tested(_module: ModuleType, _device: torch.device) -> bool:
        if isinstance(agrees, Exception):
            raise agrees
        return agrees

    return backend.register(Operation(name, "launch", tested, kernels))


def listed(device: torch.device) -> dict[str, KernelStatus]:
    return {status.name: status for status in list_kernels(device)}


@pytest.mark.usefixtures("choose")
def test_without_a_card_torch_computes_and_the_others_say_why_not() -> None:
    found = listed(CPU)
    assert list(found) == ["kitchen", "triton", "torch"]
    assert found["torch"] == KernelStatus("torch", True, None)
    assert not found["triton"].in_use and "CUDA devices, this is cpu" in str(found["triton"])
    assert not found["kitchen"].in_use and "CUDA and HIP devices, this is cpu" in str(found["kitchen"])
    assert operation("adding").kernel(CPU) is None


@pytest.mark.usefixtures("card")
def test_on_a_card_triton_computes_what_it_is_trusted_with(monkeypatch: pytest.MonkeyPatch) -> None:
    good = operation("adding")
    assert good.kernel(CARD).__name__.endswith("kernels.launch")  # type: ignore[union-attr]
    found = listed(CARD)
    assert found["triton"] == KernelStatus("triton", True, None)
    assert found["torch"] == KernelStatus("torch", True, "for what triton cannot")
    operation("wrong", agrees=False)
    assert listed(CARD)["triton"] == KernelStatus("triton", True, "not for wrong")
    assert not backend.TRITON.why_not(CARD) and backend.TRITON.available(CARD)
    assert good.kernel(torch.device("cuda")) is good.kernel(CARD)
    assert (
        operation("untested").kernel(torch.device("cuda:1")) is None and torch.device("cuda:1") not in backend._tested
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert good.kernel(CARD) is None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert good.kernel(torch.device("cuda:1")) is None


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("agrees", "reason"),
    [(False, "its results are wrong on this device"), (RuntimeError("no C compiler"), "RuntimeError: no C compiler")],
    ids=["wrong", "raises"],
)
def test_a_failed_self_test_leaves_it_to_torch(
    agrees: bool | Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing = operation("adding", agrees)
    with caplog.at_level(logging.INFO, "hswq_core.backend"):
        assert failing.kernel(CARD) is None
        assert failing.kernel(CARD) is None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and said[0].startswith("HSWQ: kernels on cuda:0: torch; not kitchen")
    assert said[1].startswith("HSWQ: adding without Triton on cuda:0") and all(reason in line for line in said)
    assert reason in str(backend.TRITON.why_not(CARD)) and not backend.TRITON.available(CARD)


@pytest.mark.usefixtures("card")
def test_the_log_has_one_line_for_each_device(caplog: pytest.LogCaptureFixture) -> None:
    first, second = operation("adding"), operation("multiplying")
    with caplog.at_level(logging.INFO, "hswq_core.backend"):
        for device in (CPU, CARD, CPU, CARD):
            first.kernel(device), second.kernel(device)
    cpu, cuda = (record.getMessage() for record in caplog.records)
    assert cpu.startswith("HSWQ: kernels on cpu: torch; not kitchen (its kernels are for CUDA") and "triton" in cpu
    assert cuda.startswith("HSWQ: kernels on cuda:0: triton; torch (for what triton cannot); not kitchen")


@pytest.mark.usefixtures("card")
def test_torch_switches_the_others_off(choose: Choose) -> None:
    choose(" Torch ")
    assert operation("adding", agrees=AssertionError("not to be tested")).kernel(CARD) is None
    found = listed(CARD)
    assert found["torch"] == KernelStatus("torch", True, None)
    assert found["triton"] == KernelStatus("triton", False, "switched off by HSWQ_KERNELS=torch")


@pytest.mark.usefixtures("card")
def test_triton_is_forced_or_an_error(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    choose("triton")
    good, wrong = operation("adding"), operation("wrong", agrees=False)
    assert good.kernel(CARD) is not None
    with pytest.raises(
        KernelError, match="HSWQ_KERNELS=triton cannot be used on cpu: its kernels are for CUDA devices"
    ):
        good.kernel(CPU)
    with pytest.raises(KernelError, match=r"on cuda:0: wrong: its results are wrong .*Set it to torch, or unset it"):
        wrong.kernel(CARD)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with pytest.raises(KernelError, match="cuda:1 is the current device"):
        good.kernel(CARD)
    monkeypatch.setattr(backend, "_installed", lambda _package: False)
    assert "Triton is not installed" in str(listed(CARD)["triton"])


@pytest.mark.usefixtures("card")
def test_kitchen_is_forced_or_an_error(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    choose("kitchen")
    with pytest.raises(KernelError, match="cannot be used on cpu: its kernels are for CUDA and HIP devices"):
        operation("adding").kernel(CPU)
    with pytest.raises(KernelError, match="comfy-kitchen is not installed"):
        operation("adding").kernel(CARD)
    assert not any(status.in_use for status in list_kernels(CPU))
    monkeypatch.setattr(backend, "_kitchen_problem", lambda: None)  # as if it were there
    own, of_triton = operation("multiplying", kernels=backend.KITCHEN), operation("subtracting")
    assert own.kernel(CARD) is not None and of_triton.kernel(CARD) is None
    with pytest.raises(KernelError, match="wrong: its results are wrong"):
        operation("wrong", agrees=False, kernels=backend.KITCHEN).kernel(CARD)


@pytest.mark.usefixtures("card")
def test_two_sets_are_in_use_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_kitchen_problem", lambda: None)
    adding, own = operation("adding"), operation("multiplying", kernels=backend.KITCHEN)
    assert adding.kernel(CARD) is not None and own.kernel(CARD) is not None
    operation("wrong", agrees=False, kernels=backend.KITCHEN)
    found = listed(CARD)
    assert found["triton"] == KernelStatus("triton", True, None)
    assert found["kitchen"] == KernelStatus("kitchen", True, "not for wrong")
    assert found["torch"] == KernelStatus("torch", True, "for what kitchen and triton cannot")


def test_another_name_is_one_error_that_names_the_choices(choose: Choose) -> None:
    choose("cuda")
    for asked in (backend.forced_set, lambda: list_kernels(CPU), lambda: operation("adding").kernel(CPU)):
        with pytest.raises(
            KernelError, match=r"HSWQ_KERNELS=cuda names no kernels. Set it to kitchen, triton or torch"
        ):
            asked()


def test_the_command_line_says_so_before_it_works() -> None:
    command = [sys.executable, "-m", "hswq_core", "inspect", "nothing.safetensors"]
    environment = {**os.environ, backend.VARIABLE: "cuda"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("hswq: HSWQ_KERNELS=cuda names no kernels.")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("dtype", COMPUTED_IN, ids=str)
def test_every_choice_computes_the_same(device: torch.device, dtype: torch.dtype, choose: Choose) -> None:
    codes = torch.arange(4096, device=device).mul_(37).to(torch.uint8).view(E4M3.dtype).view(64, 64)
    scale = torch.tensor([0.37], device=device)
    chosen = dequantizing.dequantize(codes, scale, dtype)
    choose("torch")
    backend._chosen.cache_clear()
    close = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0
    expected = dequantizing.dequantize(codes, scale, dtype)
    torch.testing.assert_close(chosen, expected, rtol=close, atol=0, equal_nan=True)
    assert SumBank({"layer": 64}, device)._kernel is None
