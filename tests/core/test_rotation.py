"""Rotated inputs in int8 and comfy-int8: where they pay, and that they are what is multiplied with."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core import convert, inspect, quantize
from hswq_core.calibration import Statistics
from hswq_core.errors import CheckpointError, PlanError, StatisticsError
from hswq_core.files.names import default_name
from hswq_core.inference.int8_linear import int8_linear
from hswq_core.options import QuantizeOptions
from hswq_core.rounding.rotation import best_group, rotated
from tests.core.small_nets import calibrated

PREFIX = "model.diffusion_model."


class Net(torch.nn.Module):
    """One layer whose inputs have an outlier, and one whose inputs have none."""

    def __init__(self) -> None:
        super().__init__()
        self.with_outlier, self.without = (torch.nn.Linear(64, 48).half() for _ in range(2))

    def forward(self, x: torch.Tensor) -> None:
        self.without(x)
        loud = x.clone()
        loud[:, 5] *= 40
        self.with_outlier(loud)


@dataclass
class Case:
    source: Path
    statistics: Statistics
    folder: Path

    def written(self, name: str, mode: str = "comfy-int8", **options: object) -> dict[str, torch.Tensor]:
        """The diffusion model of a file without kept layers."""
        target = self.folder / f"{name}.safetensors"
        report = quantize(self.source, target, self.statistics, keep_ratio=0.0, mode=mode, **options)  # type: ignore[arg-type]
        assert report.bytes == target.stat().st_size  # as planned, before it was known what is rotated
        return unet_of(target)


def unet_of(path: Path) -> dict[str, torch.Tensor]:
    return {k.removeprefix(PREFIX): v for k, v in load_file(path).items() if k.startswith(PREFIX)}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    torch.manual_seed(0)
    net = Net()
    statistics = calibrated(net)
    save_file({PREFIX + k: v.detach() for k, v in net.state_dict().items()}, tmp_path / "model.safetensors")
    return Case(tmp_path / "model.safetensors", statistics, tmp_path)


def said_of(unet: dict[str, torch.Tensor], layer: str) -> dict[str, object]:
    return json.loads(bytes(unet[f"{layer}.comfy_quant"].tolist()))


def in_stock(unet: dict[str, torch.Tensor], layer: str, x: torch.Tensor) -> torch.Tensor:
    """What ComfyUI computes: the input rotated as the layer says, rounded by row, integers multiplied."""
    said = said_of(unet, layer)
    if said.get("convrot"):
        x = rotated(x, int(str(said["convrot_groupsize"])))
    scale = x.abs().amax(1, keepdim=True) / 127
    integers = (x / scale).round().clamp(-127, 127)
    return (integers @ unet[f"{layer}.weight"].float().t()) * scale * unet[f"{layer}.weight_scale"].t()


def test_turning_twice_is_not_turning() -> None:
    x = torch.randn(5, 512)
    for group in (4, 16, 64, 256):
        turned = rotated(x, group)
        assert torch.allclose(turned.norm(dim=1), x.norm(dim=1), rtol=1e-5)
        assert torch.allclose(rotated(turned, group), x, atol=1e-5) and not torch.allclose(turned, x, atol=0.1)
    assert torch.equal(rotated(x, 1), x)


def test_the_matrix_is_that_of_comfyui() -> None:
    four = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1.0]])
    assert torch.equal(rotated(torch.eye(16), 16), torch.kron(four, four) / 4)


def test_outliers_are_worth_a_rotation_and_even_inputs_are_not() -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(32, 64), torch.randn(300, 64)
    assert best_group(weight, rows) == 1
    rows[:, 3] *= 50
    assert best_group(weight, rows) == 64
    assert best_group(torch.randn(32, 40), torch.randn(300, 40)) == 1  # no group divides its inputs


@pytest.mark.parametrize("rounding", ["nearest", "calibrated"])
def test_a_file_says_what_is_rotated_and_is_closer_for_it(case: Case, rounding: str) -> None:
    plain, turned = case.written("plain", rounding=rounding), case.written("turned", rounding=rounding, rotate=True)
    assert said_of(turned, "with_outlier") == {
        "format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64,
    }  # fmt: skip
    assert said_of(turned, "without") == {"format": "int8_tensorwise"}
    assert torch.equal(turned["without.weight"], plain["without.weight"])
    original = unet_of(case.source)
    x = torch.randn(200, 64)
    x[:, 5] *= 40
    exact = x @ original["with_outlier.weight"].float().t()
    errors = [float((in_stock(unet, "with_outlier", x) - exact).square().sum()) for unet in (turned, plain)]
    assert errors[0] < 0.2 * errors[1]


def test_converting_turns_weights_back_or_keeps_them_turned(case: Case) -> None:
    turned, file = case.written("turned", rotate=True), case.folder / "turned.safetensors"
    group = int(str(said_of(turned, "with_outlier")["convrot_groupsize"]))
    exact = rotated(turned["with_outlier.weight"].float() * turned["with_outlier.weight_scale"], group).half()
    convert(file, case.folder / "fp16.safetensors", "fp16")
    plain = unet_of(case.folder / "fp16.safetensors")
    assert torch.equal(plain["with_outlier.weight"], exact) and "with_outlier.weight_scale" not in plain
    assert plain["without.weight"].dtype == torch.float16
    convert(file, case.folder / "int8.safetensors", "int8")
    ours = unet_of(case.folder / "int8.safetensors")
    assert all(torch.equal(turned[key], ours[key]) for key in turned if not key.endswith("comfy_quant"))
    assert int(ours["with_outlier.weight_rotation"]) == group and "with_outlier.comfy_quant" not in ours
    assert inspect(case.folder / "int8.safetensors").format == "int8"
    # There and back again.
    convert(case.folder / "int8.safetensors", case.folder / "same.safetensors", "comfy-int8")
    same = unet_of(case.folder / "same.safetensors")
    assert all(torch.equal(turned[key], same[key]) for key in turned if not key.endswith("comfy_quant"))
    assert all(said_of(turned, layer) == said_of(same, layer) for layer in ("with_outlier", "without"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            '{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 48}',
            "with_outlier cannot be",
        ),
        ('{"format": "int8_tensorwise", "convrot": true}', "with_outlier cannot be"),
        ('{"format": "another"}', "with_outlier is quantized in a way that HSWQ does not know"),
        ("{", "with_outlier is quantized in a way that HSWQ does not know"),
    ],
)
def test_a_description_that_cannot_be_is_told(case: Case, said: str, told: str) -> None:
    case.written("turned", rotate=True)
    tensors = load_file(case.folder / "turned.safetensors")
    tensors[f"{PREFIX}with_outlier.comfy_quant"] = torch.tensor(list(said.encode()), dtype=torch.uint8)
    save_file(tensors, case.folder / "bad.safetensors")
    with pytest.raises(CheckpointError, match=told):
        convert(case.folder / "bad.safetensors", case.folder / "out.safetensors", "fp16")
    assert not (case.folder / "out.safetensors").exists()


def test_int8_says_it_in_a_tensor_of_its_own(case: Case) -> None:
    plain, turned = case.written("plain", "int8"), case.written("turned", "int8", rotate=True)
    assert {name: int(turned[f"{name}.weight_rotation"]) for name in ("with_outlier", "without")} == {
        "with_outlier": 64, "without": 1,
    }  # fmt: skip
    assert turned["with_outlier.weight_rotation"].dtype == torch.int32
    assert not any(key.endswith(("comfy_quant", "weight_rotation")) for key in plain)
    assert torch.equal(turned["without.weight"], plain["without.weight"])
    found = inspect(case.folder / "turned.safetensors")
    assert found.format == "int8" and found.metadata["hswq.rotate"] == "true"
    assert "hswq_int8" in found.metadata["_quantization_metadata"]  # by which stock loaders refuse it
    original, x = unet_of(case.source)["with_outlier.weight"].float(), torch.randn(200, 64)
    x[:, 5] *= 40
    errors = []
    for unet, group in ((turned, 64), (plain, 1)):
        out = int8_linear(x, unet["with_outlier.weight"], unet["with_outlier.weight_scale"], None, group)
        assert out is not None
        errors.append(float((out - x @ original.t()).square().sum()))
    assert errors[0] < 0.2 * errors[1]


@pytest.mark.parametrize("rotation", [[48], [-4], [0], [64, 64], []], ids=str)
def test_a_rotation_that_cannot_be_is_told(case: Case, rotation: list[int]) -> None:
    case.written("turned", "int8", rotate=True)
    tensors = load_file(case.folder / "turned.safetensors")
    tensors[f"{PREFIX}with_outlier.weight_rotation"] = torch.tensor(rotation, dtype=torch.int32)
    save_file(tensors, case.folder / "bad.safetensors")
    with pytest.raises(CheckpointError, match="with_outlier cannot be"):
        convert(case.folder / "bad.safetensors", case.folder / "out.safetensors", "fp16")


def test_the_choice_is_recorded(case: Case) -> None:
    options = QuantizeOptions(mode="comfy-int8", keep_ratio=0.0, rotate=True)
    assert default_name("m.safetensors", 2, options) == "m_hswq_r2_r0_comfy-int8_rotated.safetensors"
    report = quantize(case.source, case.folder / "out.safetensors", case.statistics, options)
    assert report.rotated_layers == 1 and "the inputs of 1 of 2 layers" in str(report)
    assert inspect(case.folder / "out.safetensors").metadata["hswq.rotate"] == "true"


def test_what_cannot_be_rotated_is_told(case: Case) -> None:
    with pytest.raises(PlanError, match="rotated in int8, comfy-int8 alone"):
        QuantizeOptions(mode="v2", rotate=True)
    with pytest.raises(PlanError, match="Give true or false"):
        QuantizeOptions(mode="comfy-int8", rotate="yes")  # type: ignore[arg-type]
    bare = {name: replace(layer, rows=None) for name, layer in case.statistics.layers.items()}
    without = replace(case.statistics, layers=bare)
    with pytest.raises(StatisticsError, match="choosing what to rotate needs samples"):
        quantize(case.source, case.folder / "o.safetensors", without, mode="comfy-int8", keep_ratio=0.0, rotate=True)
    assert not (case.folder / "o.safetensors").exists()
