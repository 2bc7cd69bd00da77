"""One page for several candidates: its rows, its links, and nothing half-written."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from hswq_core.errors import CheckpointError, TargetError
from hswq_core.proof import Pair, Proof
from hswq_core.proof.comparison import Compared, write_comparison
from hswq_core.proof.verdict import ProvedFile


def proved(folder: Path, name: str, size: int, mode: str, ssim: float, error: float | None = None) -> Compared:
    """A proof on disk, in a folder of its own."""
    pair = Pair("a <cat>", 1, (0.999, 0.998), (1e-5, 2e-4), (1e-4,), ssim, 31.0)
    files = {
        "reference": ProvedFile("model.safetensors", 1000, "AA"),
        "candidate": ProvedFile(name, size, "BB", mode, error),
    }
    place = folder / Path(name).stem
    place.mkdir()
    proof = Proof("model.safetensors", name, (pair, pair), {"steps": 5}, files)
    (place / "proof.json").write_text(json.dumps(proof.as_dict()), "utf-8")
    (place / "proof.html").write_text("<p>all pairs</p>", "utf-8")
    return Compared.read(place / "proof.html")


def test_candidates_stand_by_size_with_their_own_proofs(tmp_path: Path) -> None:
    large = proved(tmp_path, "large & <int8>.safetensors", 600, "int8", 0.99)
    small = proved(tmp_path, "small.safetensors", 400, "mixed", 0.3, 2e-3)
    page = write_comparison(tmp_path, [large, small])
    assert page == tmp_path / "model_compared" / "comparison.html"
    text = html.unescape(page.read_text("utf-8"))
    links = re.findall(r'href="([^"]*)"', page.read_text("utf-8"))
    assert [(page.parent / unquote(link)).resolve() for link in links] == [
        (each.page).resolve() for each in (small, large)
    ]
    said = json.loads((page.parent / "comparison.json").read_text("utf-8"))
    first, second = said["candidates"]
    assert first["candidate"] == "small.safetensors" and first["share"] == 0.4 and first["predicted_error"] == 2e-3
    assert first["proved_error"] == 1e-4 and first["worst_ssim"] == 0.3 and first["tone"] == "bad"
    assert "HSWQ Loader" in first["opened_by"] and second["predicted_error"] is None
    for each in (small, large):
        assert each.proof["verdict"] in text and each.proof["candidate"] in text
    assert "<int8>" not in page.read_text("utf-8")
    assert write_comparison(tmp_path, [large, small]) != page, "an earlier one stays"


def test_what_is_no_proof_is_refused(tmp_path: Path) -> None:
    found = proved(tmp_path, "a.safetensors", 400, "v2", 0.9)
    said = json.loads(found.page.with_name("proof.json").read_text("utf-8"))
    for broken in ("[]", "{}", json.dumps(said | {"pairs": []}), json.dumps(said | {"files": {"candidate": {}}})):
        found.page.with_name("proof.json").write_text(broken, "utf-8")
        with pytest.raises(CheckpointError, match="this is no proof"):
            Compared.read(found.page)


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = proved(tmp_path, "a.safetensors", 400, "v2", 0.9)
    before = set(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hswq_core.proof.comparison.replace", full)
    with pytest.raises(TargetError, match="No space left"):
        write_comparison(tmp_path, [found, found])
    assert set(tmp_path.iterdir()) == before
