"""``comparison.html``: several candidates against one original, in one table, each with its own proof."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, TargetError, printable
from ..files.names import next_free, usable_name
from ..files.replace import replace
from ..files.unfinished import unfinished_folder
from ..formats import FORMATS
from .verdict import ProvedFile

_TEMPLATE = Path(__file__).with_name("comparison.html.j2")
PAGE = "comparison.html"
_ANY_LOADER = "Whatever opens the original."


@dataclass(frozen=True)
class Compared:
    """A candidate with its proof.

    Attributes:
        proof: what ``proof.json`` says.
        page: its ``proof.html``.
    """

    proof: Mapping[str, Any]
    page: Path

    @staticmethod
    def read(page: Path) -> Compared:
        """Errors: CheckpointError for what is no proof."""
        try:
            said = json.loads(page.with_name("proof.json").read_text("utf-8"))
            found = Compared(said, page)
            found.row(page.parent)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError("this is no proof", where=page, remedy="Prove this candidate again") from error
        return found

    def row(self, folder: Path) -> dict[str, Any]:
        """What the table says of it, for a page in ``folder``: plain data."""
        files = {side: ProvedFile(**file) for side, file in self.proof["files"].items()}
        file, original = files.get("candidate"), files.get("reference")
        figures = self.proof["figures"]
        return {
            "candidate": self.proof["candidate"],
            "page": Path(os.path.relpath(self.page, folder)).as_posix(),
            "bytes": file.bytes if file else None,
            "share": file.bytes / original.bytes if file and original else None,
            "format": file.format if file else "",
            "opened_by": _opened_by(file.format) if file else "",
            "predicted_error": file.predicted_error if file else None,
            "proved_error": figures["model_error"]["median"] if "model_error" in figures else None,
            "ssim": figures["ssim"]["median"],
            "worst_ssim": min(pair["ssim"] for pair in self.proof["pairs"]),
            "passed": self.proof["passed"],
            "verdict": self.proof["verdict"],
            "tone": self.proof.get("tone", ""),
        }


def write_comparison(folder: Path, candidates: Sequence[Compared]) -> Path:
    """Write the page, and the same as ``comparison.json``, into a new folder inside ``folder``.

    Errors: TargetError when it cannot be written; there is no new folder then.
    """
    name = usable_name(f"{Path(candidates[0].proof['reference']).stem}_compared")
    try:
        with unfinished_folder(folder) as unfinished:
            made = next_free(folder / name)
            put_comparison(unfinished, candidates, made)
            replace(unfinished, made)
    except OSError as error:
        raise TargetError(
            f"the comparison could not be written ({error.strerror})", where=folder, remedy="Check the disk"
        ) from error
    return made / PAGE


def put_comparison(folder: Path, candidates: Sequence[Compared], later: Path | None = None) -> Path:
    """Write both into a folder that is there.

    Args:
        later: where the folder will be, if elsewhere: links begin there.

    Errors: OSError when they cannot be written.
    """
    from jinja2 import Environment, StrictUndefined  # ComfyUI's start need not wait for it

    rows = sorted(
        (each.row(later or folder) for each in candidates), key=lambda row: (row["bytes"] or 0, row["candidate"])
    )
    first = candidates[0].proof
    said = {"hswq.kind": "comparison", "format_version": 1, "reference": first["reference"], "candidates": rows}
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE.read_text("utf-8"))
    page = template.render(
        reference=first["reference"], original=first["files"].get("reference"), rows=rows, pairs=len(first["pairs"]),
        gate=first["gate"], settings=json.dumps(first["settings"], indent=2, ensure_ascii=False),
    )  # fmt: skip
    text = json.dumps(said, indent=1, ensure_ascii=False)
    (folder / "comparison.json").write_text(printable(text), "utf-8")
    (folder / PAGE).write_text(printable(page), "utf-8")
    return folder / PAGE


def _opened_by(name: str) -> str:
    return FORMATS[name].how_to_load.replace("*", "") if name in FORMATS else _ANY_LOADER
