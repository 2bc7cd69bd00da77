"""Between formats without the original: FP8 codes are carried over, not made again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hswq_core.convert_file import convert_checkpoint
from hswq_core.errors import CheckpointError, TargetError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.options import QuantizeOptions
from hswq_core.planning import make_plan
from hswq_core.quantize_file import quantize_checkpoint
from tests.core.conftest import PREFIX, WIDTH, Example

FP8 = torch.float8_e4m3fn


@pytest.fixture
def files(example: Example, tmp_path: Path) -> dict[str, Path]:
    paths = {mode: tmp_path / f"{mode}.safetensors" for mode in ("v1", "v2", "comfy")}
    for mode, path in paths.items():
        with CheckpointReader(example.path) as source:
            plan = make_plan(source, example.statistics, QuantizeOptions(mode=mode, keep_ratio=0.1))
            quantize_checkpoint(source, plan, example.statistics, path)
    return paths


def convert(source: Path, to: str) -> dict[str, torch.Tensor]:
    target = source.with_name(f"{source.stem}_to_{to}.safetensors")
    with CheckpointReader(source) as reader:
        convert_checkpoint(reader, target, to)
    return load_file(target)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def test_v2_and_comfy_are_the_same_for_linear_layers(files: dict[str, Path]) -> None:
    v2, comfy = load_file(files["v2"]), convert(files["v2"], "comfy")
    layers = [k.removesuffix(".weight") for k, t in v2.items() if t.dtype == FP8 and t.dim() == 2]
    assert layers
    for layer in layers:
        assert same(comfy[f"{layer}.weight"], v2[f"{layer}.weight"])
        assert comfy[f"{layer}.weight_scale"].shape == () and comfy[f"{layer}.weight_scale"] == v2[f"{layer}.scale"][0]
        assert f"{layer}.comfy_quant" in comfy and f"{layer}.scale" not in comfy
    conv = f"{PREFIX}conv"
    assert same(comfy[f"{conv}.weight"], (v2[f"{conv}.weight"].float() * v2[f"{conv}.scale"]).half())
    back = convert(files["v2"].with_name("v2_to_comfy.safetensors"), "v2")
    for layer in layers:
        assert same(back[f"{layer}.weight"], v2[f"{layer}.weight"]) and same(
            back[f"{layer}.scale"], v2[f"{layer}.scale"]
        )


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy"])
def test_fp16_is_the_dequantized_weight(files: dict[str, Path], mode: str) -> None:
    before, after = load_file(files[mode]), convert(files[mode], "fp16")
    for key, tensor in before.items():
        if tensor.dtype == FP8:
            layer = key.removesuffix(".weight")
            scale = before.get(f"{layer}.scale", before.get(f"{layer}.weight_scale", torch.ones(1)))
            assert same(after[key], (tensor.float() * scale).half())
        elif not key.endswith((".scale", ".weight_scale", ".comfy_quant")):
            assert same(after[key], tensor)
    assert not [k for k in after if k.endswith((".scale", ".weight_scale", ".comfy_quant"))]


def test_v1_gets_the_scale_one(files: dict[str, Path]) -> None:
    after = convert(files["v1"], "v2")
    assert all(t.item() == 1 for k, t in after.items() if k.endswith(".scale"))


def test_a_scale_for_each_channel(example: Example, tmp_path: Path) -> None:
    source = tmp_path / "channels.safetensors"
    tensors = dict(example.tensors)
    weight = tensors[f"{PREFIX}blocks.3.weight"].to(FP8)
    scale = torch.rand(WIDTH) + 0.5
    tensors |= {f"{PREFIX}blocks.3.weight": weight, f"{PREFIX}blocks.3.scale": scale}
    save_file(tensors, source)
    expected = (weight.float() * scale[:, None]).half()
    assert same(convert(source, "fp16")[f"{PREFIX}blocks.3.weight"], expected)
    assert same(convert(source, "comfy")[f"{PREFIX}blocks.3.weight"], expected)  # comfy has one scale a layer
    assert same(convert(source, "v2")[f"{PREFIX}blocks.3.weight"], weight)


def test_what_cannot_be_converted(example: Example, files: dict[str, Path], tmp_path: Path) -> None:
    with CheckpointReader(example.path) as reader, pytest.raises(CheckpointError, match="in FP8"):
        convert_checkpoint(reader, tmp_path / "x.safetensors", "fp16")
    with CheckpointReader(files["v2"]) as reader, pytest.raises(TargetError, match="exists"):
        convert_checkpoint(reader, files["v1"], "comfy")
    tensors = load_file(files["v2"])
    tensors[f"{PREFIX}blocks.0.scale"] = torch.tensor([0.0])
    save_file(tensors, tmp_path / "zero.safetensors")
    with CheckpointReader(tmp_path / "zero.safetensors") as reader, pytest.raises(CheckpointError, match=r"blocks\.0"):
        convert_checkpoint(reader, tmp_path / "x.safetensors", "fp16")
    assert not (tmp_path / "x.safetensors").exists()
