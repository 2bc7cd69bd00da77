"""Files in 4 and 8 bits that ComfyUI's own loaders open: numbers, bytes, and which layers are in what."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core.api import convert, inspect, plan, quantize
from hswq_core.calibration import Statistics
from hswq_core.cli import main
from hswq_core.errors import CheckpointError, StatisticsError
from hswq_core.formats import FORMATS
from hswq_core.grids.block_scales import BLOCK
from hswq_core.inference.packed import dequantize_packed
from hswq_core.options import QuantizeOptions
from hswq_core.publishing import publish
from hswq_core.sensitivity.rules import has_impacts
from tests.core.small_nets import calibrated
from tests.core.test_nvfp4 import MAGNITUDES

PREFIX = "model.diffusion_model."
NVFP4, INT8 = FORMATS["comfy-mixed"].menu


def fp4(code: int) -> float:
    """A 4-bit number by its definition."""
    return (-1.0 if code & 8 else 1.0) * MAGNITUDES[code & 7]


def fp8(code: int) -> float:
    """A number of E4M3 by its definition."""
    exponent, mantissa = code >> 3 & 15, code & 7
    return (1 + mantissa / 8) * 2.0 ** (exponent - 7) if exponent else mantissa / 8 * 2.0**-6


def read_by_hand(tensors: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    """A layer's weight in float64, read as docs/formats.md says."""
    packed, factor = tensors[f"{layer}.weight"], float(tensors[f"{layer}.weight_scale_2"])
    scales = tensors[f"{layer}.weight_scale"].view(torch.uint8)
    rows, columns, width = packed.shape[0], 2 * packed.shape[1], scales.shape[1]
    flat, weight = scales.flatten(), torch.zeros(rows, columns, dtype=torch.float64)
    for row, column in product(range(rows), range(columns)):
        byte = int(packed[row, column // 2])
        code = byte & 15 if column % 2 else byte >> 4
        block = column // BLOCK
        tile = (row // 128) * (width // 4) + block // 4
        place = 512 * tile + 16 * (row % 32) + 4 * (row % 128 // 32) + block % 4
        weight[row, column] = fp4(code) * fp8(int(flat[place])) * factor
    return weight


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = torch.nn.Linear(64, 144), torch.nn.Linear(64, 32)
        self.narrow = torch.nn.Linear(40, 32)

    def forward(self, x: torch.Tensor) -> None:
        self.to_q(x)
        self.to_k(x)
        self.narrow(x[:, :40])


class Net(torch.nn.Module):
    """Layers that NVFP4 can hold in a block, one that it cannot, an embedding of the text, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Sequential(torch.nn.Linear(64, 64))
        self.blocks = torch.nn.ModuleList([Block() for _ in range(3)])
        self.conv = torch.nn.Conv2d(4, 8, 3)
        self.half()

    def forward(self, x: torch.Tensor) -> None:
        self.embed(x)
        for block in self.blocks:
            block(x)
        self.conv(x.view(-1, 4, 4, 4))


@dataclass
class Case:
    source: Path
    statistics: Statistics
    target: Path

    def written(self, **options: object) -> dict[str, torch.Tensor]:
        report = quantize(self.source, self.target, self.statistics, mode="comfy-mixed", **options)  # type: ignore[arg-type]
        assert report.bytes == self.target.stat().st_size == report.plan.nbytes
        return load_file(self.target)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    torch.manual_seed(0)
    net = Net()
    statistics = calibrated(net)
    for form, impact in ((NVFP4, 1e-3), (INT8, 1e-5)):
        held = [name for name, each in statistics.layers.items() if form.holds(name, each.shape)]
        impacts = {name: impact * (place + 1) for place, name in enumerate(held)}
        for rounding in ("nearest", "calibrated"):
            statistics = statistics.with_impacts(impacts, f"{form.name} {rounding}")
    save_file({PREFIX + k: v.detach() for k, v in net.state_dict().items()}, tmp_path / "model.safetensors")
    return Case(tmp_path / "model.safetensors", statistics, tmp_path / "comfy-mixed.safetensors")


@pytest.mark.parametrize("rounding", ["nearest", "calibrated"])
def test_a_file_is_what_the_documentation_says(case: Case, rounding: str) -> None:
    tensors = case.written(target="0.9", rounding=rounding)
    plain = load_file(convert(case.target, case.target.with_stem("fp16"), "fp16").file)
    original = load_file(case.source)
    for number, name in product(range(3), ("to_q", "to_k")):
        layer = f"{PREFIX}blocks.{number}.{name}"
        said = json.loads(bytes(tensors[f"{layer}.comfy_quant"].tolist()))
        assert said == {"format": "nvfp4", "full_precision_matrix_mult": True}
        weight = read_by_hand(tensors, layer)
        assert torch.equal(plain[f"{layer}.weight"].double(), weight)
        assert (weight - original[f"{layer}.weight"].double()).square().mean() < 0.01 * weight.square().mean()
        scale, factor = tensors[f"{layer}.weight_scale"], tensors[f"{layer}.weight_scale_2"]
        assert (scale.dtype, factor.dtype, factor.shape) == (torch.float8_e4m3fn, torch.float32, ())
    for name in ("embed.0", "blocks.0.narrow"):
        assert tensors[f"{PREFIX}{name}.weight"].dtype == torch.int8
        said = json.loads(bytes(tensors[f"{PREFIX}{name}.comfy_quant"].tolist()))
        assert said["format"] == "int8_tensorwise"
    assert torch.equal(tensors[f"{PREFIX}conv.weight"], original[f"{PREFIX}conv.weight"])
    found = inspect(case.target)
    assert (found.format, found.grid, len(found.quantized)) == ("comfy-mixed", "INT8 and NVFP4", 10)
    assert json.loads(found.metadata["hswq.layers_by_form"]) == {"nvfp4": 6, "int8_tensorwise": 4, "kept": 1}
    save_file(tensors, case.target)  # as tools write it that drop what the header says
    assert inspect(case.target).format == "comfy-mixed"


def test_what_inference_computes_is_the_definition(case: Case, device: torch.device) -> None:
    tensors, layer = case.written(target="0.9"), f"{PREFIX}blocks.1.to_q"
    exact = read_by_hand(tensors, layer)
    from hswq_core.files.decode import decode_layer

    codes = tensors[f"{layer}.weight"]
    decoder = decode_layer(tensors, tensors.__getitem__, layer, tuple(codes.shape), case.target)
    assert decoder.shape == (144, 64) and decoder.scale.shape == (144, 4)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = dequantize_packed(codes.to(device), decoder.scale.to(device), 4, (144, 64), dtype, decoder.factor)
        assert found.dtype == dtype and torch.equal(found.cpu().double(), exact.to(dtype).double())
    # Factors of other tools are no powers of two; then the product of scales is rounded first.
    other = dequantize_packed(codes, decoder.scale, 4, (144, 64), torch.float32, 0.1234567)
    torch.testing.assert_close(other.double(), exact / (decoder.factor or 0) * 0.1234567, rtol=3e-7, atol=0)


def test_impacts_choose_between_the_forms(case: Case) -> None:
    def forms(**options: str) -> dict[str, int]:
        return plan(case.source, case.statistics, mode="comfy-mixed", **options).layers_by_form

    assert forms(target="0.9") == {"nvfp4": 6, "int8_tensorwise": 4, "kept": 1}
    between, best = forms(target="6e-3"), forms(target="1e-12", force_quantize="blocks.*.to_*")
    assert 0 < between["nvfp4"] < 6
    assert best == {"int8_tensorwise": 6, "kept": 5}
    made = plan(case.source, case.statistics, mode="comfy-mixed", budget="60%")
    assert made.nbytes <= 0.6 * case.source.stat().st_size
    assert "no comfy-mixed format for convolutions" in next(e.reason for e in made.layers if e.layer == "conv")


def test_only_what_a_form_can_hold_needs_an_impact(case: Case) -> None:
    options = QuantizeOptions(mode="comfy-mixed")
    assert has_impacts(case.statistics, options)
    first = case.statistics.layers["blocks.0.to_q"]
    case.statistics.layers["blocks.0.to_q"] = replace(first, impacts={"int8_tensorwise nearest": 1e-5})
    assert not has_impacts(case.statistics, options)
    with pytest.raises(StatisticsError, match="not measured for nvfp4 nearest"):
        plan(case.source, case.statistics, mode="comfy-mixed")


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        ("input_blocks.4.1.transformer_blocks.1.attn2.to_k", (64, 64), True),
        ("double_blocks.0.img_attn.qkv", (64, 64), True),
        ("input_blocks.4.1.transformer_blocks.0.attn2.to_k", (64, 64), False),
        ("label_emb.0.0", (64, 64), False),
        ("txt_in", (64, 64), False),
        ("blocks.3.ffn.0", (64, 40), False),
        ("blocks.3.ffn.0", (24, 64), False),
        ("input_blocks.1.0.in_layers.2", (64, 64, 3, 3), False),
    ],
)
def test_layers_that_tell_models_apart_are_not_packed(layer: str, shape: tuple[int, ...], expected: bool) -> None:
    assert NVFP4.holds(layer, shape) is expected


@pytest.mark.parametrize("damage", ["scale", "factor", "negative", "missing", "codes", "smoothed"])
def test_what_does_not_belong_together_is_refused(case: Case, damage: str) -> None:
    tensors, layer = case.written(target="0.9"), f"{PREFIX}blocks.0.to_q"
    scale = f"{layer}.weight_scale"
    if damage == "scale":
        tensors[scale] = tensors[scale][:64].clone()
    elif damage == "factor":
        tensors[f"{scale}_2"] = tensors[f"{scale}_2"] * float("nan")
    elif damage == "negative":
        tensors[scale] = (-1 - tensors[scale].float()).to(torch.float8_e4m3fn)
    elif damage == "missing":
        del tensors[f"{scale}_2"]
    elif damage == "smoothed":
        tensors[f"{layer}.pre_quant_scale"] = torch.ones(64)
    else:
        tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"][:, :-1].contiguous()
    save_file(tensors, case.target)
    with pytest.raises(CheckpointError, match=r"do not belong together|does not know"):
        convert(case.target, case.target.with_stem("out"), "fp16")


def test_its_integers_can_be_converted_and_its_floats_are_expanded(case: Case) -> None:
    case.written(target="0.9")
    made = convert(case.target, case.target.with_stem("int8"), "int8")
    assert len(made.quantized) == 4 and len(made.expanded) == 6


def test_the_command_line_and_the_card_know_it(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    from hswq_core.calibration import save_statistics

    save_statistics(case.statistics, case.target.with_name("stats.safetensors"))
    command = ["quantize", str(case.source), str(case.target), "--mode", "comfy-mixed", "--target", "0.9"]
    assert main([*command, "--stats", str(case.target.with_name("stats.safetensors")), "--dry-run"]) == 0
    assert "predicted error" in capsys.readouterr().out
    case.written(target="0.9")
    said = (publish(case.target, case.target.with_name("card")).folder / "README.md").read_text(encoding="utf-8")
    assert "from version 0.33 on" in said and "6 layers in nvfp4" in said and "INT8 and NVFP4" in said
    share = case.target.stat().st_size / sum(tensor.nbytes for tensor in load_file(case.source).values())
    assert f"{share:.0%} of 16 bits" in said
