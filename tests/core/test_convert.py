"""Between formats without the original: FP8 codes are carried over, not made again."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core import quantize
from hswq_core.convert_file import convert_checkpoint
from hswq_core.errors import CheckpointError, TargetError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.options import QuantizeOptions
from hswq_core.planning import make_plan, match_source
from hswq_core.quantize_file import quantize_checkpoint
from tests.core.conftest import PREFIX, WIDTH, Example

FP8 = torch.float8_e4m3fn


@pytest.fixture
def files(example: Example, tmp_path: Path) -> dict[str, Path]:
    paths = {mode: tmp_path / f"{mode}.safetensors" for mode in ("v1", "v2", "comfy")}
    for mode, path in paths.items():
        with CheckpointReader(example.path) as source:
            plan = make_plan(match_source(source, example.statistics), QuantizeOptions(mode=mode, keep_ratio=0.1))
            quantize_checkpoint(match_source(source, example.statistics), plan, path)
    return paths


@pytest.fixture
def integers(example: Example, tmp_path: Path) -> Path:
    path = tmp_path / "int8.safetensors"
    quantize(example.path, path, example.statistics, mode="int8", keep_ratio=0.1)
    return path


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


def test_integers_stay_the_same_integers(integers: Path) -> None:
    int8, comfy = load_file(integers), convert(integers, "comfy-int8")
    layers = [k.removesuffix(".weight") for k, t in int8.items() if t.dtype == torch.int8]
    assert layers and any(int8[f"{layer}.weight"].dim() == 4 for layer in layers)
    for layer in layers:
        weight, scale = int8[f"{layer}.weight"], int8[f"{layer}.weight_scale"]
        assert scale.dtype == torch.float32 and scale.shape == (len(weight), 1)
        if weight.dim() == 2:
            assert same(comfy[f"{layer}.weight"], weight) and same(comfy[f"{layer}.weight_scale"], scale)
            assert json.loads(bytes(comfy[f"{layer}.comfy_quant"].tolist())) == {"format": "int8_tensorwise"}
        else:
            assert same(comfy[f"{layer}.weight"], (weight.float() * scale.view(-1, 1, 1, 1)).half())
    back = convert(integers.with_name("int8_to_comfy-int8.safetensors"), "int8")
    assert all(same(back[key], comfy[key]) for key in back if back[key].dtype == torch.int8)
    assert not any(key.endswith(".comfy_quant") for key in back)
    fp16 = convert(integers, "fp16")
    layer = layers[0]
    weight, scale = int8[f"{layer}.weight"], int8[f"{layer}.weight_scale"]
    exact = weight.float() * scale.view(-1, *[1] * (weight.dim() - 1))
    assert same(fp16[f"{layer}.weight"], exact.half())
    with safe_open(integers, framework="pt") as file:
        assert "hswq_int8" in file.metadata()["_quantization_metadata"]
    with safe_open(integers.with_name("int8_to_comfy-int8.safetensors"), framework="pt") as file:
        assert "_quantization_metadata" not in file.metadata()


def test_codes_are_never_rounded_twice(files: dict[str, Path], integers: Path) -> None:
    for source, to in ((files["v2"], "int8"), (files["v1"], "comfy-int8"), (integers, "v2"), (integers, "comfy")):
        with pytest.raises(CheckpointError, match="rounded twice"):
            convert(source, to)


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
    plain = {f"{PREFIX}blocks.4.weight": tensors[f"{PREFIX}blocks.4.weight"].to(FP8)}
    tensors |= plain | {f"{PREFIX}blocks.4.scale": torch.ones(1)}
    save_file(tensors, source)
    expected = (weight.float() * scale[:, None]).half()
    assert same(convert(source, "fp16")[f"{PREFIX}blocks.3.weight"], expected)
    assert same(convert(source, "comfy")[f"{PREFIX}blocks.3.weight"], expected)  # comfy has one scale a layer
    assert same(convert(source, "v2")[f"{PREFIX}blocks.3.weight"], weight)


def test_what_fp16_cannot_hold_becomes_float32(files: dict[str, Path]) -> None:
    tensors = load_file(files["v2"])
    layer = next(k.removesuffix(".weight") for k, t in tensors.items() if t.dtype == FP8)
    large = files["v2"].with_name("large.safetensors")
    save_file(tensors | {f"{layer}.scale": torch.tensor([1000.0])}, large)
    after = convert(large, "fp16")[f"{layer}.weight"]
    assert after.dtype == torch.float32 and after.isfinite().all()
    assert torch.equal(after, tensors[f"{layer}.weight"].float() * 1000)


def test_what_cannot_be_converted(example: Example, files: dict[str, Path], tmp_path: Path) -> None:
    with (
        CheckpointReader(example.path) as reader,
        pytest.raises(CheckpointError, match="no layer of this file is quantized"),
    ):
        convert_checkpoint(reader, tmp_path / "x.safetensors", "fp16")
    with CheckpointReader(files["v2"]) as reader, pytest.raises(TargetError, match="exists"):
        convert_checkpoint(reader, files["v1"], "comfy")
    tensors = load_file(files["v2"])
    tensors[f"{PREFIX}blocks.0.scale"] = torch.tensor([0.0])
    save_file(tensors, tmp_path / "zero.safetensors")
    with CheckpointReader(tmp_path / "zero.safetensors") as reader, pytest.raises(CheckpointError, match=r"blocks\.0"):
        convert_checkpoint(reader, tmp_path / "x.safetensors", "fp16")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_file_none_of_whose_layers_would_stay_quantized_is_refused(example: Example, tmp_path: Path) -> None:
    """It would be twice as large and not be what it says."""
    wide = tmp_path / "e5m2.safetensors"
    matrices = {key for key, tensor in example.tensors.items() if key.startswith(PREFIX) and tensor.dim() > 1}
    e5m2 = {k: t.to(torch.float8_e5m2) if k in matrices else t for k, t in example.tensors.items()}
    save_file(e5m2, wide)
    for to in ("v2", "comfy"):
        with pytest.raises(CheckpointError, match=f"they are F8_E5M2, and {to} holds F8_E4M3. Convert it to fp16"):
            convert(wide, to)
    key = f"{PREFIX}blocks.3.weight"
    assert same(convert(wide, "fp16")[key], e5m2[key].half())

    convolution = tmp_path / "convolution.safetensors"
    key = f"{PREFIX}conv.weight"
    save_file(example.tensors | {key: example.tensors[key].to(FP8), f"{PREFIX}conv.scale": torch.ones(1)}, convolution)
    with pytest.raises(CheckpointError, match="none of its 1 quantized layers can be stored in comfy"):
        convert(convolution, "comfy")
    assert sorted(p.name for p in tmp_path.iterdir() if "_to_" in p.name) == ["e5m2_to_fp16.safetensors"]
