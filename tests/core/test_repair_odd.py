"""Repairs of single layers among healthy ones, of what stands beside layers and in the header; odd originals."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hswq_core import diagnose, repair
from hswq_core.doctor.json_text import names_in
from hswq_core.errors import CheckpointError, PlanError, TargetError
from hswq_core.files.dtypes import tensor_bytes
from tests.core import doctor_files as files
from tests.core.test_doctor_damage import CONVOLUTION, DAMAGED, LAYER, ours_changed
from tests.core.test_repair import AGAIN, header, same, undamaged, whole


def random_codes(key: str) -> Callable[[files.Tensors], files.Tensors]:
    """A change of a file: the codes of one layer replaced by noise."""

    def change(tensors: files.Tensors) -> files.Tensors:
        noise = torch.randint(1, 100, tensors[key].shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        return {**tensors, key: noise.view(files.FP8)}

    return change


@pytest.mark.parametrize("by_hswq", [True, False])
def test_a_lost_layer_among_those_without_scales_is_again_as_they_are(by_hswq: bool, tmp_path: Path) -> None:
    """One layer of noise does not say that the others had scales."""
    key = f"{LAYER}.weight"
    healthy = undamaged(tmp_path, "v1") if by_hswq else files.save(tmp_path, files.each(files.plain), name="healthy")
    damaged = tmp_path / "changed.safetensors"
    if by_hswq:
        ours_changed(tmp_path, "v1", random_codes(key))
    else:
        files.save(tmp_path, random_codes(key)(load_file(healthy)), name="changed")
    done = repair(damaged, whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert [(mend.name, mend.how) for mend in done.mends] == [(LAYER, AGAIN)]
    assert {k: tensor_bytes(v) for k, v in load_file(target).items()} == {
        k: tensor_bytes(v) for k, v in load_file(healthy).items()
    }
    assert not diagnose(target).findings
    assert (header(target) or {}).get("hswq.mode") == ("v1" if by_hswq else None)


def test_scales_without_any_weight_are_left_out(tmp_path: Path) -> None:
    """HSWQ Loader refuses a file for them; a norm may have a parameter named ``.scale``."""
    stray, norm = f"{files.UNET}zz.weight_scale", f"{files.UNET}input_blocks.3.norm.scale"
    with_norm = {**load_file(undamaged(tmp_path, "v2")), norm: torch.ones(64)}
    assert not diagnose(files.save(tmp_path, with_norm)).errors
    damaged = ours_changed(tmp_path, "v2", lambda _: {**with_norm, stray: torch.ones(())})
    done = repair(damaged, whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert done.dropped == (stray,) and "scale-orphan" in done.findings and norm in load_file(target)
    assert all(each.opens for each in diagnose(target).openings if each.loader == "HSWQ Loader")


def test_an_original_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Also one of as many elements."""
    damaged, model = files.save(tmp_path, DAMAGED["a scale is zero"][1](), name="damaged"), files.original()
    weight = model[f"{LAYER}.weight"]
    other = files.save(tmp_path, {**model, f"{LAYER}.weight": weight.t().contiguous()}, name="other")
    with pytest.raises(CheckpointError, match=r"\[64, 256\], and \[256, 64\] in the original"):
        repair(damaged, other, tmp_path / "mended.safetensors")
    convolved = files.save(tmp_path, {**model, f"{LAYER}.weight": weight[:, :, None, None]}, name="other")
    assert [mend.name for mend in repair(damaged, convolved, tmp_path / "mended.safetensors").mends] == [LAYER]


@pytest.mark.parametrize("said", ["", "[]", '["nowhere"]', '"no list"'])
def test_kept_layers_are_named_by_the_header(said: str, tmp_path: Path) -> None:
    """All of them and no other, whatever it said before: as the quantizer does."""
    claims = {"hswq__kept_layers": said} if said else {}
    lost = f"{files.UNET}label_emb.0.0"
    damaged = ours_changed(
        tmp_path, "comfy", lambda t: {k: v for k, v in t.items() if not k.startswith((lost, CONVOLUTION))}, **claims
    )
    repair(damaged, whole(tmp_path), target := tmp_path / "mended.safetensors")
    kept = json.loads(header(target)["hswq.kept_layers"])
    assert sorted(kept) == ["input_blocks.0.0", "label_emb.0.0", "output_blocks.0.0"]
    assert not diagnose(target).findings
    with pytest.raises(PlanError, match="nothing to mend"):
        repair(target, whole(tmp_path), tmp_path / "again.safetensors")


@pytest.mark.parametrize("text", ["", "{", "7", "[[1], 2]", "[" * 100_000])
def test_a_list_in_the_header_that_is_none(text: str) -> None:
    assert names_in(text) is None and names_in('["a", "b"]') == ["a", "b"]


def test_an_original_with_zeros_and_one_with_infinity(tmp_path: Path) -> None:
    bias, norm = f"{files.UNET}input_blocks.0.0.bias", f"{files.UNET}input_blocks.2.0.in_layers.0.weight"
    model = files.original()
    zeros = files.save(tmp_path, {**model, bias: torch.zeros(64).half()}, name="zeros")
    damaged = ours_changed(tmp_path, "v2", lambda t: {**t, bias: torch.full((64,), 30000.0).half()})
    done = repair(damaged, zeros, tmp_path / "mended.safetensors")
    assert [(mend.name, mend.before) for mend in done.mends] == [(bias, None)]
    broken = files.save(tmp_path, {**model, norm: model[norm] * float("inf")}, name="broken")
    damaged = files.save(tmp_path, {**load_file(damaged), norm: files.to_fp8(model[norm])}, header(damaged))
    with pytest.raises(CheckpointError, match="holds NaN or infinity itself"):
        repair(damaged, broken, tmp_path / "other.safetensors")


def test_a_text_encoder_and_a_gguf_are_no_originals(tmp_path: Path) -> None:
    damaged, target = files.save(tmp_path, DAMAGED["a scale is zero"][1](), name="damaged"), tmp_path / "m.safetensors"
    encoder = {key: value for key, value in files.original().items() if key.startswith(files.TEXT)}
    with pytest.raises(CheckpointError, match=r"no layer of the diffusion model of damaged\.safetensors is in it"):
        repair(damaged, files.save(tmp_path, encoder, name="encoder"), target)
    (tmp_path / "o.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(CheckpointError, match="the original is a GGUF file"):
        repair(damaged, tmp_path / "o.gguf", target)


def test_targets_that_are_none(tmp_path: Path) -> None:
    damaged = files.save(tmp_path, DAMAGED["a scale is zero"][1](), name="damaged")
    with pytest.raises(TargetError, match=r"opens that as \.gguf"):
        repair(damaged, whole(tmp_path), tmp_path / "mended.gguf")
    if os.name == "posix":
        loop = tmp_path / "loop.safetensors"
        loop.symlink_to(loop)
        with pytest.raises(TargetError, match="exists already"):
            repair(damaged, whole(tmp_path), loop)
        assert loop.is_symlink()


@pytest.mark.parametrize("lost", [(".comfy_quant",), (".comfy_quant", ".weight_scale"), (".weight_scale",)])
@pytest.mark.parametrize("mode", ["comfy", "comfy-int8", "rotated by another tool"])
def test_a_description_that_is_lost_is_put_back(mode: str, lost: tuple[str, ...], tmp_path: Path) -> None:
    """As the other layers have it; without one, ComfyUI's own loaders draw noise."""
    gone = [LAYER + each for each in lost]
    if mode.startswith("rotated"):
        turned = files.integers({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}, 64)
        healthy = files.save(tmp_path, files.each(turned), {"hswq.mode": mode}, name="healthy")
    else:
        healthy = files.ours(tmp_path, mode)
    left = {key: value for key, value in load_file(healthy).items() if key not in gone}
    damaged = files.save(tmp_path, left, header(healthy), name="damaged")
    done = repair(damaged, whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert [mend.name for mend in done.mends] == [LAYER] and not diagnose(target).findings
    assert header(target)["hswq.mode"] == mode
    before, after = load_file(healthy), load_file(target)
    assert before.keys() == after.keys()
    alike = {key for key in before if tensor_bytes(before[key]) == tensor_bytes(after[key])}
    assert alike >= before.keys() - {f"{LAYER}.weight_scale"}
    assert ".weight_scale" in lost or same(target, healthy)


def test_a_layer_that_no_mode_has_is_one_error(tmp_path: Path) -> None:
    other = files.scaled(".scale_weight")(LAYER, files.original()[f"{LAYER}.weight"])
    damaged = ours_changed(tmp_path, "comfy", lambda t: {k: v for k, v in t.items() if not k.startswith(LAYER)} | other)
    with pytest.raises(CheckpointError, match="cannot be mended: the header says that the file is comfy"):
        repair(damaged, whole(tmp_path), tmp_path / "mended.safetensors")
