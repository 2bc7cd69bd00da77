"""What a file says of itself by the ModelSpec is true of it."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hswq_core import convert, quantize
from hswq_core.errors import PlanError
from hswq_core.files.modelspec import architecture_of, origin_of, problems_of, thumbnail_of
from hswq_core.files.source import TensorInfo
from tests.core.conftest import Example


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def hash_of_tensors(path: Path) -> str:
    data = path.read_bytes()
    return "0x" + hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


@pytest.mark.parametrize("mode", ["v1", "v2", "comfy", "int8", "comfy-int8"])
def test_a_quantized_file_keeps_to_the_specification(example: Example, tmp_path: Path, mode: str) -> None:
    target = tmp_path / "out.safetensors"
    quantize(example.path, target, example.statistics, mode=mode)
    found = metadata_of(target)
    assert problems_of(found) == []
    assert found["modelspec.hash_sha256"] == hash_of_tensors(target)
    assert found["modelspec.title"] == f"model0 (HSWQ {mode.upper()})"
    assert found["title"] == "example", "what is not the specification's stays"
    assert "Loader" in found["modelspec.usage_hint"] or mode == "v1"


def test_claims_of_the_source_are_replaced_and_converting_renews_them(example: Example, tmp_path: Path) -> None:
    claims = {
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "my-architecture", "modelspec.title": "My Model",
        "modelspec.implementation": "mine", "modelspec.date": "2020-01-01", "modelspec.hash_sha256": "0xabc",
        "modelspec.usage_hint": "Trigger word: apple", "modelspec.author": "me",
        "hswq.note": '"modelspec.hash_sha256":"0x' + "0" * 64 + '"',
    }  # fmt: skip
    save_file(load_file(example.path), example.path, claims)
    first, second = tmp_path / "v2.safetensors", tmp_path / "fp16.safetensors"
    quantize(example.path, first, example.statistics, mode="v2")
    found = metadata_of(first)
    assert problems_of(found) == [] and found["modelspec.hash_sha256"] == hash_of_tensors(first)
    assert found["source.modelspec.hash_sha256"] == "0xabc" and found["hswq.note"] == claims["hswq.note"]
    assert found["modelspec.architecture"] == "my-architecture" and found["modelspec.author"] == "me"
    assert found["modelspec.date"] != "2020-01-01"
    assert found["modelspec.usage_hint"].startswith("Trigger word: apple Open with HSWQ Loader")
    convert(first, second, "fp16")
    renewed = metadata_of(second)
    assert renewed["modelspec.hash_sha256"] == hash_of_tensors(second) != found["modelspec.hash_sha256"]
    assert renewed["modelspec.title"] == "My Model (HSWQ FP16)"
    assert renewed["modelspec.usage_hint"] == "Trigger word: apple"


def test_files_of_a_day_long_gone_are_made_again_to_the_byte(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("a", "b"):
        quantize(example.path, tmp_path / name, example.statistics)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert metadata_of(tmp_path / "a")["modelspec.date"] == "2023-11-14"


@pytest.mark.parametrize(
    ("architecture", "shapes"),
    [
        ("stable-diffusion-xl-v1-base", {"input_blocks.0.0.weight": (320, 4, 3, 3), "label_emb.0.0.weight": (8, 2816)}),
        ("stable-diffusion-xl-v1-refiner", {"input_blocks.0.0.weight": (3, 4), "label_emb.0.0.weight": (8, 2560)}),
        (
            "stable-diffusion-v1",
            {
                "input_blocks.0.0.weight": (320, 4, 3, 3),
                "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            },
        ),
        ("flux-1-dev", {"double_blocks.0.img_attn.qkv.weight": (9, 3), "guidance_in.in_layer.weight": (3, 3)}),
        ("unknown", {"blocks.0.weight": (3, 3)}),
    ],
)
def test_architectures_are_told_by_their_tensors(architecture: str, shapes: dict[str, tuple[int, ...]]) -> None:
    tensors = {f"p.{name}": TensorInfo("F16", shape, 0, 0) for name, shape in shapes.items()}
    assert architecture_of(tensors, "p.") == architecture


def test_the_validator_says_what_is_wrong() -> None:
    said = {"modelspec.title": "x", "modelspec.hash_sha256": "abc", "modelspec.date": "yesterday"}
    assert len(problems_of(said)) == 5, json.dumps(problems_of(said))


def test_a_thumbnail_is_put_into_the_header(example: Example, tmp_path: Path) -> None:
    picture, target = tmp_path / "small.jpg", tmp_path / "out.safetensors"
    data = b"\xff\xd8\xff\xe0" + bytes(range(256))
    picture.write_bytes(data)
    report = quantize(example.path, target, example.statistics, mode="v2", thumbnail=thumbnail_of(picture))
    kind, _, content = metadata_of(target)["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64" and base64.b64decode(content) == data
    assert report.plan.nbytes == target.stat().st_size
    for name, wrong in (("text.jpg", b"hello"), ("large.jpg", data * 2000)):
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(PlanError, match="no thumbnail"):
            thumbnail_of(tmp_path / name)
    with pytest.raises(PlanError, match="cannot be read"):
        thumbnail_of(tmp_path / "missing.jpg")


def test_the_origin_is_told_as_far_as_it_is_known() -> None:
    title, author = {"modelspec.title": "A (HSWQ V2)"}, {"modelspec.author": "me"}
    made = {"hswq.tool_version": "0.1.0"}
    assert origin_of(title | author | made) == "HSWQ 0.1.0, from A by me"
    assert origin_of(title | made) == "HSWQ 0.1.0, from A"
    assert origin_of(title | author) == "A by me"
    assert origin_of(made) == "HSWQ 0.1.0" and origin_of(author) == ""
