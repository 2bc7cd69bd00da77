"""comfy-kitchen behind our signatures: its plain back end, which computes on any device, in all of our self-tests."""

from types import ModuleType

import pytest
import torch

from hswq_core.inference import dequantize, int8_linear

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kitchen() -> ModuleType:
    pytest.importorskip("comfy_kitchen", reason="only recent ComfyUI brings comfy-kitchen along")
    from hswq_core.kernels import kitchen as found

    return found


def test_the_product_agrees_with_ours(kitchen: ModuleType) -> None:
    assert int8_linear._agrees(kitchen, CPU)


def test_integers_are_dequantized_to_the_same_numbers(kitchen: ModuleType) -> None:
    assert dequantize._integers_agree(kitchen, CPU)


def test_what_it_does_otherwise_is_noticed(kitchen: ModuleType) -> None:
    """Its plain back end rounds the scale of FP8 to the type of the weight before it multiplies."""
    assert not dequantize._agrees(kitchen, CPU)


class Careless:
    """As comfy-kitchen's own kernels are: what is not finite becomes a number."""

    @staticmethod
    def int8_linear(x: torch.Tensor, *others: object) -> torch.Tensor:
        out = int8_linear._by_torch(torch.nan_to_num(x, posinf=1.0), *others)  # type: ignore[arg-type]
        assert out is not None
        return out


class Wrong:
    @staticmethod
    def int8_linear(x: torch.Tensor, codes: torch.Tensor, *others: object) -> torch.Tensor:
        out = int8_linear._by_torch(x, codes.roll(1, 1), *others)  # type: ignore[arg-type]
        return torch.full((len(x), len(codes)), float("nan")) if out is None else out


@pytest.mark.parametrize("module", [Careless, Wrong])
def test_the_self_test_of_the_product_finds(module: ModuleType) -> None:
    assert not int8_linear._agrees(module, CPU)
