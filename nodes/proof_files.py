"""What HSWQ Prove writes: the page, the figures as JSON, a picture of some pairs, and all pictures on request."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from ..hswq_core.errors import printable
from ..hswq_core.files.names import next_free, usable_name
from ..hswq_core.proof import Proof, proof_page
from ..hswq_core.proof.page import Pictures
from ..hswq_core.proof.verdict import ProvedFile
from ..hswq_core.publishing.hashes import hashes_of
from ..hswq_core.publishing.shown_proof import PICTURE
from ..loader.provenance import patches_of
from .common import progress_bar
from .pictures import as_image, as_jpeg

_PAIRS_IN_A_PICTURE = 4


def name_of(files: Collection[Path], model: Any, otherwise: str) -> str:
    """What a model is called: its files, and whether there is something on top of them."""
    name = "+".join(sorted(file.name for file in files)) or otherwise
    return f"{name} with patches" if patches_of(model) else name


def proved_file(files: Collection[Path], model: Any) -> ProvedFile | None:
    """The file that a model is; ``None`` for a merge, a patched model, and a file that is gone."""
    if len(files) != 1 or patches_of(model):
        return None
    (file,) = files
    try:
        return ProvedFile(file.name, file.stat().st_size, hashes_of(file, progress_bar())["SHA256"])
    except OSError:
        return None


def write_proof(
    folder: Path,
    proof: Proof,
    pictures: Sequence[Pictures],
    side_by_side: torch.Tensor,
    drawn: Sequence[Sequence[torch.Tensor]],
) -> Path:
    """The page, proof.html, with the rest beside it, in a new folder named for the candidate.

    Args:
        side_by_side: [pairs, H, W, 3].
        drawn: the pictures [B, H, W, 3] of reference and candidate for each pair, for folders of PNG; or nothing.
    """
    made = next_free(folder / usable_name(Path(proof.candidate).stem))
    made.mkdir(parents=True)
    (made / "proof.json").write_text(printable(json.dumps(proof.as_dict(), indent=1, ensure_ascii=False)), "utf-8")
    (made / "proof.html").write_text(printable(proof_page(proof, pictures)), "utf-8")
    (made / PICTURE).write_bytes(as_jpeg(side_by_side[:_PAIRS_IN_A_PICTURE].flatten(0, 1)))
    for number, pair in enumerate(drawn):
        for side, batch in zip(("reference", "candidate"), pair, strict=False):
            (made / side).mkdir(exist_ok=True)
            for frame, image in enumerate(batch):
                as_image(image).save(made / side / f"{number:04}_{frame:03}.png")
    return made / "proof.html"
