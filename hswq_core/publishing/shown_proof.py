"""What a card shows of a proof: its verdict, its figures, and what goes into the folder with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..proof.verdict import FIGURES, ProvedFile

PAIRS_IMAGE = "pairs.jpg"


@dataclass(frozen=True)
class ShownProof:
    """Attributes:
    rows: figures with their intervals.
    files: by the name that they have in the folder.
    candidate: SHA256 of the file that was proved; empty where the proof does not say.
    """

    verdict: str
    rows: tuple[tuple[str, str], ...]
    files: dict[str, Path]
    candidate: str = ""


def read_proof(page: Path) -> ShownProof:
    """Args: page: ``proof.html`` or ``proof.json``; what belongs to it lies beside it.

    Errors: CheckpointError for a file that is not a proof.
    """
    path = page.with_suffix(".json")
    try:
        said = json.loads(path.read_text("utf-8"))
        if said["hswq.kind"] != "proof" or not isinstance(said["verdict"], str):
            raise ValueError("another kind")
        rows = [
            (text, "{mean:.4g} (95 %: {low:.4g} to {high:.4g}), median {median:.4g}".format(**said["figures"][name]))
            for name, text in FIGURES.items()
            if name in said["figures"]
        ]
        pairs = f"{len(said['pairs'])}; {said['bifurcated']} part ways"
        proved = [ProvedFile(**file) for file in said.get("files", {}).values()]
        rows += [("compared", str(file)) for file in proved]
        candidate = str(said.get("files", {}).get("candidate", {}).get("sha256", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("this is no proof", where=page, remedy="Give the proof.html of HSWQ Prove") from error
    files = {name: path.with_name(name) for name in (path.name, "proof.html", PAIRS_IMAGE)}
    found = {name: file for name, file in files.items() if file.is_file()}
    return ShownProof(said["verdict"], (*rows, ("pairs", pairs)), found, candidate)
