"""Damaged files mended by their original: as exact as they were, well by the doctor, and else the same to the byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hswq_core import diagnose, repair
from hswq_core.cli import main
from hswq_core.errors import CheckpointError, HSWQError, PlanError, TargetError
from hswq_core.files.checkpoint import CheckpointReader
from hswq_core.files.dtypes import tensor_bytes
from hswq_core.files.modelspec import HASH
from tests.core import doctor_files as files
from tests.core.doctor_cases import CASES
from tests.core.test_doctor_damage import CLAIMS, CONVOLUTION, DAMAGED, LAYER, ours_changed

AGAIN, RESTORED, RECOMPUTED = "quantized again", "restored from the original", "scales recomputed"
NOT_MENDED = ("a rotation that cannot be", "expanded without scales")


def whole(folder: Path) -> Path:
    return files.save(folder, files.original(), name="whole")


def undamaged(folder: Path, mode: str) -> Path:
    (folder / "undamaged").mkdir(exist_ok=True)
    return files.ours(folder / "undamaged", mode)


def errors(path: Path, folder: Path) -> dict[str, float]:
    """The weights' relative squared errors by layer."""
    found = diagnose(path, original=whole(folder)).comparison
    assert found is not None and not found.undecoded
    return {layer.layer: layer.weight for layer in found.layers}


@pytest.mark.parametrize("what", [what for what in DAMAGED if what not in NOT_MENDED])
def test_what_was_damaged_is_well_again(what: str, tmp_path: Path) -> None:
    name, make, _ = DAMAGED[what]
    damaged, target = files.save(tmp_path, make(), name="damaged"), tmp_path / "mended.safetensors"
    done = repair(damaged, whole(tmp_path), target)
    assert done.file == target and name in done.findings
    assert not diagnose(target).errors
    found = errors(target, tmp_path)
    assert max(found.values(), default=0.0) < 0.02
    names = {mend.name for mend in done.mends}
    before, after = load_file(damaged), load_file(target)
    for key in before.keys() & after.keys():
        if not any(key.startswith(name) for name in names):
            assert tensor_bytes(before[key]) == tensor_bytes(after[key]), key


@pytest.mark.parametrize("what", CLAIMS)
def test_a_header_that_was_not_true_is(what: str, tmp_path: Path) -> None:
    _, make = CLAIMS[what]
    damaged, target = make(tmp_path), tmp_path / "mended.safetensors"
    repair(damaged, whole(tmp_path), target)
    assert not diagnose(target).findings
    assert true_hash(target) == header(target)[HASH]


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def true_hash(path: Path) -> str:
    data = path.read_bytes()
    return f"0x{hashlib.sha256(data[8 + int.from_bytes(data[:8], 'little') :]).hexdigest()}"


def test_a_hash_of_other_bytes_is_put_right_and_nothing_else(tmp_path: Path) -> None:
    stale = ours_changed(tmp_path, "v2", lambda tensors: tensors, modelspec__hash_sha256="0x" + "ab" * 32)
    done = repair(stale, whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert done.header == (HASH,) and not done.mends and true_hash(target) == header(target)[HASH]
    assert same(target, undamaged(tmp_path, "v2"))


def same(a: Path, b: Path) -> bool:
    """Whether two files have the same tensors and the same text in their headers."""
    with CheckpointReader(a) as one, CheckpointReader(b) as other:
        alike = one.tensors.keys() == other.tensors.keys() and one.metadata == other.metadata
        return alike and all(b"".join(one.chunks(key)) == b"".join(other.chunks(key)) for key in one.tensors)


def kept_and_cast(path: Path) -> files.Tensors:
    """A comfy file whose convolutions, which are kept, a tool has cast to FP8; with them the VAE's, and a norm."""
    norm = f"{files.UNET}input_blocks.2.0.in_layers.0.weight"
    return {k: files.to_fp8(v) if v.dim() == 4 or k == norm else v for k, v in load_file(path).items()}


def test_kept_layers_that_became_fp8_come_from_the_original(tmp_path: Path) -> None:
    healthy = undamaged(tmp_path, "comfy")
    damaged = ours_changed(tmp_path, "comfy", lambda tensors: kept_and_cast(healthy))
    done = repair(damaged, whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert {mend.how for mend in done.mends} == {RESTORED} and len(done.mends) == 4
    assert same(target, healthy)


def test_a_healthy_file_comes_back_from_each_damage_as_exact_as_it_was(tmp_path: Path) -> None:
    """Calibrated or not, codes stay: scales alone are found anew."""
    for mode in ("v2", "int8", "comfy", "comfy-int8"):
        healthy = undamaged(tmp_path, mode)
        before = errors(healthy, tmp_path)
        scale = next(key for key in load_file(healthy) if key.endswith(("to_q.scale", "to_q.weight_scale")))
        damaged = ours_changed(tmp_path, mode, lambda t, scale=scale: {**t, scale: t[scale] * 9e5})
        target = tmp_path / f"mended_{mode}.safetensors"
        done = repair(damaged, whole(tmp_path), target)
        assert [mend.how for mend in done.mends] == [RECOMPUTED]
        after = errors(target, tmp_path)
        assert after.keys() == before.keys() and all(after[name] <= 1.001 * before[name] for name in before)


def test_kept_layers_that_were_fp8_once_come_from_the_original(tmp_path: Path) -> None:
    upcast = {k: files.to_fp8(v).half() if v.dim() == 4 else v for k, v in files.each(files.comfy_fp8).items()}
    done = repair(files.save(tmp_path, upcast), whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert {mend.how for mend in done.mends} == {RESTORED} and "rounded-before" in done.findings
    assert not diagnose(target).findings


def test_what_somebody_has_changed_is_no_damage(tmp_path: Path) -> None:
    """A LoRA that was merged before, and smoothing, make weights that are neither the original's nor noise."""
    model = files.original()
    for name in (LAYER, CONVOLUTION):
        model[f"{name}.weight"] = model[f"{name}.weight"] + 0.01 * torch.randn(model[f"{name}.weight"].shape).half()
    with pytest.raises(PlanError, match="nothing to mend"):
        changed = files.save(tmp_path, files.each(files.comfy_fp8, model=model))
        repair(changed, whole(tmp_path), tmp_path / "mended.safetensors")


def test_codes_that_are_lost_are_made_again(tmp_path: Path) -> None:
    random = torch.randint(1, 100, (64, 256), dtype=torch.uint8)
    damaged = files.save(tmp_path, {**files.each(files.integers(None)), f"{LAYER}.weight": random.view(torch.int8)})
    done = repair(damaged, whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert [(mend.name, mend.how) for mend in done.mends] == [(LAYER, AGAIN)]
    assert max(errors(target, tmp_path).values()) < 1e-3


def test_a_layer_that_its_format_cannot_hold_comes_from_the_original(tmp_path: Path) -> None:
    """Stock loaders have no scaled convolutions."""
    tensors = files.each(files.comfy_fp8)
    weight = tensors[f"{CONVOLUTION}.weight"]
    tensors[f"{CONVOLUTION}.weight"] = files.to_fp8(weight, files.largest(weight) / 448)
    done = repair(files.save(tmp_path, tensors), whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert [mend.how for mend in done.mends] == [RESTORED]
    assert torch.equal(load_file(target)[f"{CONVOLUTION}.weight"], weight)


def test_what_is_missing_comes_from_the_original(tmp_path: Path) -> None:
    healthy, bias = undamaged(tmp_path, "v2"), f"{files.UNET}input_blocks.0.0.bias"
    damaged = ours_changed(tmp_path, "v2", lambda t: {key: value for key, value in t.items() if key != bias})
    repair(damaged, whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert same(target, healthy)


def test_another_vae_or_text_encoder_is_left_alone(tmp_path: Path) -> None:
    """Those may come from elsewhere, and only what is wrong in them is mended."""
    tensors = files.each(files.scaled(".scale"), convolutions=True)
    vae, text = f"{files.VAE}decoder.conv_in.weight", f"{files.TEXT}encoder.layers.0.mlp.fc1.weight"
    tensors[vae] = tensors[vae] + 1
    with pytest.raises(PlanError, match="nothing to mend"):
        repair(files.save(tmp_path, tensors), whole(tmp_path), tmp_path / "mended.safetensors")
    tensors[text] = tensors[text] * float("nan")
    repair(files.save(tmp_path, tensors), whole(tmp_path), target := tmp_path / "mended.safetensors")
    after = load_file(target)
    assert torch.equal(after[vae], tensors[vae]) and torch.equal(after[text], files.original()[text])


def test_a_diffusion_model_alone_and_its_checkpoint(tmp_path: Path) -> None:
    """The names of one have a prefix that the other's have not."""
    tensors = {k.removeprefix(files.UNET): v for k, v in DAMAGED["a scale is zero"][1]().items() if files.UNET in k}
    repair(files.save(tmp_path, tensors), whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert not diagnose(target).errors and load_file(target).keys() == tensors.keys()


@pytest.mark.parametrize("what", [what for what in CASES if what != "scaled_fp8 without its mark"])
def test_a_healthy_file_is_refused(what: str, tmp_path: Path) -> None:
    file, target = CASES[what].make(tmp_path), tmp_path / "mended.safetensors"
    unknown = bool(CASES[what].findings)
    with pytest.raises(HSWQError, match="cannot be mended" if unknown else "nothing to mend"):
        repair(file, whole(tmp_path), target)
    assert not target.exists()


def test_the_mark_that_is_missing_is_added(tmp_path: Path) -> None:
    damaged = files.save(tmp_path, files.each(files.scaled(".scale_weight")))
    repair(damaged, whole(tmp_path), target := tmp_path / "mended.safetensors")
    assert load_file(target).keys() - load_file(damaged).keys() == files.MARK.keys()
    assert not diagnose(target).findings


@pytest.mark.parametrize("what", NOT_MENDED)
def test_what_cannot_be_mended_is_said(what: str, tmp_path: Path) -> None:
    target = tmp_path / "mended.safetensors"
    with pytest.raises(CheckpointError, match=r"have nothing of the original.* quantize it again"):
        repair(files.save(tmp_path, DAMAGED[what][1]()), whole(tmp_path), target)
    assert not target.exists()


def test_originals_that_are_none(tmp_path: Path) -> None:
    damaged, target = files.save(tmp_path, DAMAGED["a scale is zero"][1](), name="damaged"), tmp_path / "m.safetensors"
    other = {key: torch.randn(value.shape) for key, value in files.original().items()}
    names = {f"model.diffusion_model.x.{key}": value for key, value in files.original().items()}
    for tensors, what in (
        (other, "have nothing of the original"),
        (names, "no layer of damaged.safetensors is in it"),
        (files.each(files.plain), "the original is quantized itself"),
    ):
        with pytest.raises(CheckpointError, match=what):
            repair(damaged, files.save(tmp_path, tensors, name="other"), target)
    with pytest.raises(TargetError, match="the target is the original"):
        repair(damaged, whole(tmp_path), tmp_path / "whole.safetensors", overwrite=True)
    assert not target.exists()


def test_a_model_with_a_lora_in_it_is_not_its_originals(tmp_path: Path) -> None:
    damaged = ours_changed(tmp_path, "v2", lambda tensors: tensors, hswq__source_patches="abc")
    with pytest.raises(CheckpointError, match="with a LoRA on top"):
        repair(damaged, whole(tmp_path), tmp_path / "mended.safetensors")


def command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = main(["doctor", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged, target = files.save(tmp_path, DAMAGED["a scale is NaN"][1]()), tmp_path / "mended.safetensors"
    code, _, said = command(capsys, damaged, "--repair", target)
    assert code == 2 and "a repair wants the original" in said
    words = (damaged, "--original", whole(tmp_path), "--repair", target)
    code, said, _ = command(capsys, *words)
    assert code == 0 and f"{LAYER}: {RECOMPUTED}" in said
    code, _, said = command(capsys, *words)
    assert code == 2 and "exists already" in said
    code, said, _ = command(capsys, *words, "--overwrite", "--json")
    assert code == 0 and [mend["name"] for mend in json.loads(said)["mends"]] == [LAYER]
    code, _, said = command(capsys, target, "--original", whole(tmp_path), "--repair", tmp_path / "again.safetensors")
    assert code == 2 and said.count("\n") == 1 and "nothing to mend" in said
    assert not (tmp_path / "again.safetensors").exists()
