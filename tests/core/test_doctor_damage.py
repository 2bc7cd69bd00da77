"""Damaged files, each told by the name of what is wrong; and whole ones, of which nothing is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hswq_core import diagnose
from hswq_core.doctor.findings.finding import NOISE
from tests.core import doctor_files as files
from tests.core import doctor_peers as peers

LAYER = f"{files.UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q"
CONVOLUTION = f"{files.UNET}output_blocks.0.0"


def v2() -> files.Tensors:
    return files.each(files.scaled(".scale"), convolutions=True)


def comfy() -> files.Tensors:
    return files.each(files.comfy_fp8)


def changed(tensors: files.Tensors, key: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> files.Tensors:
    """With one tensor changed, or left out."""
    found = change(tensors.pop(key))
    return tensors if found is None else {**tensors, key: found}


def all_changed(tensors: files.Tensors, ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> files.Tensors:
    return {key: change(value) if key.endswith(ending) else value for key, value in tensors.items()}


def expanded_without_scales(tensors: files.Tensors) -> files.Tensors:
    tensors = {key: value for key, value in tensors.items() if not key.endswith(".scale")}
    return {key: value.half() if value.dtype == files.FP8 else value for key, value in tensors.items()}


def upcast(tensors: files.Tensors) -> files.Tensors:
    """A layer that was cast to FP8 and back."""
    key = f"{LAYER}.weight"
    return {**tensors, key: tensors[key].to(files.FP8).half()}


def scale_of(change: Callable[[torch.Tensor], torch.Tensor | None], suffix: str = ".scale") -> files.Tensors:
    return changed(v2() if suffix == ".scale" else comfy(), LAYER + suffix, change)


def nan_code(weight: torch.Tensor) -> torch.Tensor:
    codes = weight.view(torch.uint8).clone()
    codes.view(-1)[:] = 0x7F
    return codes.view(files.FP8)


DAMAGED: dict[str, tuple[str, Callable[[], files.Tensors], str]] = {
    "a scale is missing": ("scale-missing", lambda: scale_of(lambda _: None, ".weight_scale"), LAYER),
    "a scale is zero": ("scale-not-positive", lambda: scale_of(torch.zeros_like), LAYER),
    "a scale is negative": ("scale-not-positive", lambda: scale_of(torch.neg), LAYER),
    "a scale is NaN": ("scale-not-finite", lambda: scale_of(lambda scale: scale * float("nan")), LAYER),
    "a scale has another shape": ("scale-shape", lambda: scale_of(lambda scale: scale.expand(3).clone()), LAYER),
    "a scale is one over itself": ("scale-inverted", lambda: scale_of(torch.reciprocal, ".weight_scale"), LAYER),
    "a scale is far too small": ("too-small", lambda: scale_of(lambda scale: scale * 1e-6), LAYER),
    "a scale is far too large": ("too-large", lambda: scale_of(lambda scale: scale * 1e12), LAYER),
    "all scales were removed": (
        "scale-stripped", lambda: {k: v for k, v in v2().items() if not k.endswith(".scale")}, CONVOLUTION,
    ),
    "expanded without scales": ("codes-for-weights", lambda: expanded_without_scales(v2()), CONVOLUTION),
    "scales left behind by a merge": (
        "scale-orphan", lambda: {**comfy(), f"{LAYER}.weight": files.original()[f"{LAYER}.weight"]}, LAYER,
    ),
    "the mark of scaled_fp8 without scales": (
        "marker-without-scales", lambda: files.each(files.plain) | files.MARK, f"{files.UNET}scaled_fp8",
    ),
    "integers without a scale": (
        "scale-missing", lambda: changed(files.each(files.integers(None)), f"{LAYER}.weight_scale", lambda _: None),
        LAYER,
    ),
    "NVFP4 without its second scale": (
        "scale-missing", lambda: changed(files.each(files.nvfp4), f"{LAYER}.weight_scale_2", lambda _: None), LAYER,
    ),
    "NVFP4 with scales of another layer": (
        "scale-shape", lambda: changed(files.each(files.nvfp4), f"{LAYER}.weight_scale", lambda s: s[:64].clone()),
        LAYER,
    ),
    "INT4 with a scale that overflowed": (
        "scale-not-finite", lambda: changed(files.each(files.hswq_int4), f"{LAYER}.weight_scale", lambda s: s * 1e9),
        LAYER,
    ),
    "NF4 without its largest magnitudes": (
        "scale-missing", lambda: changed(files.each(peers.bnb_nf4), f"{LAYER}.weight.absmax", lambda _: None), LAYER,
    ),
    "codes are NaN": ("not-finite", lambda: changed(v2(), f"{LAYER}.weight", nan_code), LAYER),
    "weights are NaN": (
        "not-finite", lambda: changed(files.original(), f"{LAYER}.weight", lambda weight: weight * float("inf")), LAYER,
    ),
    "a rotation that cannot be": (
        "rotation", lambda: files.each(files.integers({"format": "int8_tensorwise", "convrot": True,
                                                          "convrot_groupsize": 1024})), LAYER,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_told_by_its_name(what: str, tmp_path: Path) -> None:
    name, make, where = DAMAGED[what]
    found = diagnose(files.save(tmp_path, make()))
    assert [finding.name for finding in found.errors] == [name]
    assert any(layer.startswith(where) for layer in found.errors[0].layers)
    assert found.errors[0].remedy and f"DAMAGED: {found.errors[0].what}" in found.verdict
    assert not (name in NOISE and any(opening.opens for opening in found.openings)), "it opens, and draws noise"


def ours_changed(folder: Path, mode: str, change: Callable[[files.Tensors], files.Tensors], **said: str) -> Path:
    """A file of HSWQ with other tensors, or another header."""
    path = files.ours(folder, mode)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {key.replace("__", "."): value for key, value in said.items()}
    return files.save(folder, change(load_file(path)), metadata, name="changed")


def quantize_kept(tensors: files.Tensors) -> files.Tensors:
    return changed(tensors, f"{CONVOLUTION}.weight", files.to_fp8)


CLAIMS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "scales of a V2 file removed": (
        "scale-stripped",
        lambda f: ours_changed(f, "v2", lambda t: {k: v for k, v in t.items() if not k.endswith(".scale")}),
    ),
    "another mode": ("mode", lambda f: ours_changed(f, "v1", lambda t: t, hswq__mode="comfy")),
    "nothing quantized": ("mode", lambda f: ours_changed(f, "v1", lambda _: files.original())),
    "kept layers that are FP8": (
        "kept-quantized",
        lambda f: ours_changed(f, "comfy", quantize_kept, hswq__kept_layers=json.dumps(["output_blocks.0.0"])),
    ),
    "layers that are not there": (
        "layer-missing", lambda f: ours_changed(f, "v1", lambda t: t, hswq__kept_layers='["mid.0"]'),
    ),
    "other counts": (
        "layer-count", lambda f: ours_changed(f, "int8", lambda t: t, hswq__layers_by_form='{"int8": 8, "kept": 1}'),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CLAIMS)
def test_claims_that_tensors_do_not_bear_out(what: str, tmp_path: Path) -> None:
    name, make = CLAIMS[what]
    assert name in [finding.name for finding in diagnose(make(tmp_path)).errors]


def test_layers_that_were_fp8_before_are_a_note(tmp_path: Path) -> None:
    found = diagnose(files.save(tmp_path, upcast(files.original())))
    assert not found.errors and [(note.name, note.layers) for note in found.findings] == [("rounded-before", (LAYER,))]
    assert "cast to FP8 and back" in str(found)


def test_an_architecture_that_the_shapes_deny(tmp_path: Path) -> None:
    shapes = {"input_blocks.0.0.weight": (8, 4, 3, 3), "label_emb.0.0.weight": (8, 2816)}
    tensors = {files.UNET + name: torch.randn(*shape).half() / 100 for name, shape in shapes.items()}
    path = files.save(tmp_path, tensors, {"modelspec.architecture": "stable-diffusion-v1"})
    found = diagnose(path)
    assert [note.name for note in found.findings] == ["architecture"] and found.family.startswith("stable-diffusion-xl")
