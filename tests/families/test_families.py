"""Six families, each unlike the others, go the whole path; ``nox -s families`` takes all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = (
    "SDXL inpainting, 9 channels",
    "SD 3.5",
    "Flux Kontext",
    "Z-Image",
    "Wan 2.1 VACE",
    "HunyuanVideo as ComfyUI saves it",
)


@pytest.fixture(scope="module")
def results(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("families") / "results.json"
    command = [sys.executable, "-m", "tests.families.whole_path", "--comfyui", str(comfyui)]
    done = subprocess.run(
        [*command, "--json", str(out), "--families", *CHOSEN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text("utf-8"))


@pytest.mark.parametrize("family", CHOSEN)
def test_a_family_goes_the_whole_path(results: dict[str, Any], family: str) -> None:
    found = results[family]
    assert "error" not in found, found["error"]
    if found.get("unknown"):
        pytest.skip("this ComfyUI does not have the family")
    assert found["bit-identical"], "calibrating changes no picture"
    assert found["method"] == "gradient" and found["rank"] > 0.9
    for mode in ("v1", "v2", "comfy", "int8", "comfy-int8"):
        assert found[mode]["quantized"] > 0
        assert found[mode]["ours"] <= 1e-5 < found[mode]["original"]
    if "stock" in found["comfy"]:
        assert found["comfy"]["stock"] <= 1e-3
    if "rank without its reference" in found:
        assert found["rank without its reference"] < 1, "the image to follow changes what matters"
