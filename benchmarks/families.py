"""Every family of models through the whole path, as a table for ``docs/families.md``.

    python -m benchmarks.families --comfyui DIR [--out docs/families.md]

Tiny random models, built from ComfyUI's own classes, calibrated, measured, quantized in every mode, and opened by our
loader and by ComfyUI's own (``tests/families``).
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.inprocess_comfy import ROOT, parser
from tests.families.catalogue import FAMILIES, LEFT_OUT
from tests.families.whole_path import MODES

_TEXT = """# Families

What ComfyUI samples can be calibrated, quantized and loaded. `COMFYUI_PATH=DIR nox -s families` builds a tiny random
model of each family below from ComfyUI's own classes, in the layout of its files, takes it the whole path, and writes
this page. ComfyUI {version}, torch {torch}, {machine}, {date}.

- **picture**: sampling while calibrating gives the same latent as without, to the bit.
- **gradients**: rank correlation of the impacts by gradients with those of changing one layer after another; *exact*
  where the model has no backward pass, and HSWQ measures one layer after another.
- by mode: the largest difference between the output of the loaded file and that of the same weights dequantized to
  float32, over the largest output. For `comfy` and `comfy-int8` there are two: HSWQ Loader, and ComfyUI's own, which in
  `comfy-int8` rounds the activations, too.

| family | layers | picture | gradients | {modes} |
|---|---|---|---|{rules}|
{rows}
{reference}
Other classes of `comfy.supported_models`, and why they are not in the table:

{left_out}"""
_REFERENCE = """
Models that follow a reference image are measured with it. With an empty one in its place, the exact impacts rank the
layers otherwise; the rank correlation is {found}.
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=ROOT / "docs" / "families.md")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "families.json"
        command = [sys.executable, "-m", "tests.families.whole_path", "--comfyui", str(arguments.comfyui)]
        subprocess.run([*command, "--json", str(found)], cwd=ROOT, check=True)
        results: dict[str, Any] = json.loads(found.read_text("utf-8"))
    failed = [name for name, result in results.items() if "error" in result]
    arguments.out.write_text(_page(results, arguments.comfyui), "utf-8")
    print(f"{arguments.out}: {len(results)} families")
    if failed:
        sys.exit("failed: " + ", ".join(failed))


def _page(results: dict[str, Any], comfyui: Path) -> str:
    import torch

    version = (comfyui / "comfyui_version.py").read_text("utf-8").split('"')[-2]
    references = [
        f"{result['rank without its reference']:.3f} for {name}"
        for name, result in results.items()
        if "rank without its reference" in result
    ]
    return _TEXT.format(
        version=version, torch=torch.__version__, machine=platform.machine(), date=date.today().isoformat(),
        modes=" | ".join(MODES), rules="---|" * (len(MODES) - 1) + "---",
        rows="\n".join(_row(name, result) for name, result in results.items() if name in FAMILIES),
        reference=_REFERENCE.format(found=", ".join(references)) if references else "",
        left_out="".join(f"- {why}: {', '.join(names)}\n" for why, names in LEFT_OUT.items()),
    )  # fmt: skip


def _row(name: str, result: dict[str, Any]) -> str:
    if "error" in result:
        return f"| {name} | {result['error'].splitlines()[0]} " + "| " * (2 + len(MODES)) + "|"
    if result.get("unknown"):
        return f"| {name} | not in this version " + "| " * (2 + len(MODES)) + "|"
    gradients = f"{result['rank']:.3f}" if result["method"] == "gradient" else "exact"
    picture = "same" if result["bit-identical"] else "**other**"
    modes = [_difference(result[mode]) for mode in MODES]
    return f"| {name} | {result['layers']} | {picture} | {gradients} | {' | '.join(modes)} |"


def _difference(mode: dict[str, float]) -> str:
    return ", ".join(
        "0" if value == 0 else f"{value:.0e}" for value in (mode[k] for k in ("ours", "stock") if k in mode)
    )


if __name__ == "__main__":
    main()
