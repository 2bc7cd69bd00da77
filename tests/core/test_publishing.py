"""The folder to upload: a card that Hugging Face reads, hashes that are the file's, and nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import save_file

from hswq_core import quantize
from hswq_core.cli import main
from hswq_core.errors import CheckpointError, PlanError, TargetError
from hswq_core.proof import Pair, Proof
from hswq_core.publishing import About, publish
from hswq_core.publishing.licences import LICENCES
from tests.core.conftest import Example

ABOUT = About(
    title='A "model": with # everything', author="Ünal", licence="openrail++", trigger="apple",
    base_model="stabilityai/stable-diffusion-xl-base-1.0",
)  # fmt: skip


@pytest.fixture
def quantized(example: Example, tmp_path: Path) -> Path:
    target = tmp_path / "model_v2.safetensors"
    quantize(example.path, target, example.statistics, mode="v2", keep_ratio=0.1)
    return target


def test_hugging_face_reads_the_card(quantized: Path, tmp_path: Path) -> None:
    folder = publish(quantized, tmp_path / "upload", ABOUT).folder
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "openrail++" and card.data.base_model == ABOUT.base_model
    said = card.data.to_dict()
    assert said["base_model_relation"] == "quantized" and said["model_name"] == ABOUT.title and "fp8" in card.data.tags
    assert "HSWQ Loader" in card.text and "9 layers are in 8 bits, 2 as they were" in card.text


def test_the_hashes_are_the_files(quantized: Path, tmp_path: Path) -> None:
    folder = publish(quantized, tmp_path / "upload").folder
    digest = hashlib.sha256(quantized.read_bytes()).hexdigest().upper()
    lines = (folder / "hashes.txt").read_text("utf-8").splitlines()
    assert lines[:2] == [f"SHA256: {digest}", f"AutoV2: {digest[:10]}"]
    assert digest in (folder / "README.md").read_text("utf-8")


def test_the_same_file_gives_the_same_folder(quantized: Path, tmp_path: Path) -> None:
    first, second = (publish(quantized, tmp_path / name, ABOUT).folder for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert names == ["README.md", "civitai.html", "hashes.txt"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert "<script" not in (first / "civitai.html").read_text("utf-8") and "&quot;model&quot;" in (
        first / "civitai.html"
    ).read_text("utf-8")


def test_what_is_there_stays(example: Example, quantized: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(TargetError, match="there already"):
            publish(quantized, mine, overwrite=overwrite)
    assert [path.name for path in mine.iterdir()] == ["README.md"]
    folder = publish(quantized, tmp_path / "upload").folder
    with pytest.raises(TargetError, match="there already"):
        publish(quantized, folder)
    assert publish(quantized, folder, ABOUT, overwrite=True).folder == folder
    with pytest.raises(CheckpointError, match="not quantized by HSWQ"):
        publish(example.path, tmp_path / "other")
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".*"))


def test_the_folder_that_was_there_is_back_when_the_new_one_cannot_take_its_place(
    quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(quantized, tmp_path / "upload").folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rename = os.replace

    def fails(source: Path, target: Path) -> None:
        if Path(target) == folder and Path(source).name == "made":
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(TargetError, match="Permission denied"):
        publish(quantized, folder, ABOUT, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not list(tmp_path.glob(".*"))


def test_the_command(quantized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "hswq_core", "card", str(quantized), "--license", "MIT"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    folder = quantized.with_name("model_v2_publish")
    assert done.returncode == 0 and f"{folder}: README.md, civitai.html, hashes.txt" in done.stdout, done.stderr
    assert "missing: no base model is said" in done.stdout and "no licence" not in done.stdout
    assert 'license: "mit"' in (folder / "README.md").read_text("utf-8")
    assert main(command[3:]) == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_proof_goes_into_the_folder_and_the_card(quantized: Path, tmp_path: Path) -> None:
    place = tmp_path / "proof"
    place.mkdir()
    pair = Pair("a cat", 1, (0.999, 0.998), (1e-5, 2e-4), (1e-4,), 0.97, 31.0)
    proof = Proof("original", "copy", (pair, pair))
    (place / "proof.json").write_text(json.dumps(proof.as_dict()), "utf-8")
    (place / "proof.html").write_text("<p>all pairs</p>", "utf-8")
    (place / "pairs.jpg").write_bytes(b"jpeg")
    folder = publish(quantized, tmp_path / "upload", ABOUT, proof=place / "proof.html").folder
    names = {"README.md", "civitai.html", "hashes.txt", "pairs.jpg", "proof.html", "proof.json"}
    assert {path.name for path in folder.iterdir()} == names
    card = ModelCard.load(folder / "README.md")
    assert proof.verdict.text in card.text and "](pairs.jpg)" in card.text and "median 0.97" in card.text
    assert "2; 0 part ways" in (folder / "civitai.html").read_text("utf-8")
    with pytest.raises(CheckpointError, match="this is no proof"):
        publish(quantized, tmp_path / "other", proof=quantized)
    assert not (tmp_path / "other").exists()


def test_the_originals_licence_is_taken_over(example: Example, tmp_path: Path) -> None:
    for said, expected in (
        ("CreativeML OpenRAIL-M", {"license": "creativeml-openrail-m"}),
        ("Fair AI Public License", {"license": "other", "license_name": "Fair AI Public License"}),
    ):
        source = tmp_path / "source.safetensors"
        with safe_open(example.path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(tensors, source, {"modelspec.license": said})
        written = tmp_path / f"{expected['license']}.safetensors"
        quantize(source, written, mode="int8", keep_ratio=0)
        made = publish(written, tmp_path / expected["license"])
        found = ModelCard.load(made.folder / "README.md").data.to_dict()
        assert {key: found.get(key) for key in expected} == expected
        assert [text.split(":")[0] for text in made.missing] == [
            "no base model is said", "no author is said", "there is no proof",
        ]  # fmt: skip
        assert ModelCard.load(publish(written, tmp_path / f"{said}_mit", About(licence="mit")).folder / "README.md")


def test_the_list_of_licences_has_whole_identifiers() -> None:
    assert not [each for each in LICENCES if not each[0].isalpha() or each.endswith("-")]
    assert {"cc-by-3.0", "cc-by-nc-sa-3.0", "cdla-sharing-1.0", "fair-noncommercial-research-license"} <= LICENCES


def test_a_licence_that_hugging_face_does_not_know_is_refused(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"knows no licence 'openrial\+\+'.*Did you mean 'openrail\+\+'"):
        publish(quantized, tmp_path / "upload", About(licence="openrial++"))
    assert not (tmp_path / "upload").exists()
    assert "no licence is said" in publish(quantized, tmp_path / "upload").missing[0]
